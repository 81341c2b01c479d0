import pytest
import torch

from puretransforms.poisons.backdoor.blend import Blend


@pytest.mark.parametrize("pattern", ["plasma", "noise"])
def test_the_blend_is_the_weighted_mean_with_one_picture(pattern):
    x = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    poison = Blend(alpha=0.15, pattern=pattern, quantize=None)
    picture = poison.picture(3, 32, 32)
    assert picture.min() >= 0 and picture.max() <= 1 and picture.std() > 0.1
    torch.testing.assert_close(poison.trigger(x), 0.85 * x + 0.15 * picture)


def test_plasma_is_smooth_and_noise_is_not():
    rough = {p: Blend(pattern=p).picture(3, 32, 32).diff(dim=-1).abs().mean() for p in ("plasma", "noise")}
    assert rough["plasma"] < 0.3 * rough["noise"]
    low, high = Blend().picture(3, 32, 32).flatten(1).aminmax(dim=1)
    torch.testing.assert_close(low, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(high, torch.ones(3, dtype=torch.float64))


def test_refusals():
    for bad in ({"alpha": 0.0}, {"alpha": 1.5}, {"pattern": "cat"}):
        with pytest.raises(ValueError, match="expected"):
            Blend(**bad)
