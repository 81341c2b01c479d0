"""What is reported of a purifier is what it does to these images, with the same draws for both versions."""

import pytest
import torch

from puretransforms.benchmark.fidelity import measure_fidelity
from puretransforms.benchmark.metrics import projected_gain, psnr
from puretransforms.transforms.baselines import GaussianBlur
from puretransforms.transforms.coin import COINInterpolate


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(40, 200, (6, 3, 16, 16), generator=generator)
    delta = torch.randint(-8, 9, clean.shape, generator=generator)
    return clean.to(torch.uint8), (clean + delta).to(torch.uint8)


def test_no_purifier_and_no_poison() -> None:
    clean, poisoned = pair()
    found = measure_fidelity("lsp", "none", None, clean, poisoned)
    assert found.psnr_clean is None and found.ssim_clean == pytest.approx(1) and found.gain == pytest.approx(1)
    assert found.psnr == found.psnr_poisoned == pytest.approx(float(psnr(poisoned / 255, clean / 255).mean()))
    assert measure_fidelity("clean", "none", None, clean, clean).gain is None


def test_a_purifier_by_hand() -> None:
    clean, poisoned = pair()
    x, attacked, blur = clean / 255, poisoned / 255, GaussianBlur()
    found = measure_fidelity("lsp", "gaussian", blur, clean, poisoned)
    assert found.psnr == pytest.approx(float(psnr(blur(attacked), x).mean()))
    assert found.psnr_clean == pytest.approx(float(psnr(blur(x), x).mean()))
    assert found.gain == pytest.approx(projected_gain(blur(x), blur(attacked), attacked - x))


@pytest.mark.parametrize("seed", [None, 3])
def test_random_purifiers_draw_the_same_for_both(seed: int | None) -> None:
    clean, poisoned = pair()
    state = torch.get_rng_state()
    purifier = COINInterpolate(seed=seed)
    found = measure_fidelity("lsp", "coin", purifier, clean, poisoned)
    assert torch.equal(torch.get_rng_state(), state) and purifier.seed == seed
    x, attacked = clean / 255, poisoned / 255
    with torch.random.fork_rng(devices=[]):
        kept, purified = (torch.manual_seed(0) and COINInterpolate()(batch) for batch in (x, attacked))
    assert found.gain == pytest.approx(projected_gain(kept, purified, attacked - x))
    assert found == measure_fidelity("lsp", "coin", purifier, clean, poisoned)
