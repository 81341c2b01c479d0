import pytest
import torch

from puretransforms import UNetPurify, create
from puretransforms.functional.random import KeyedNoise
from puretransforms.train.checkpoint import FitStep


@pytest.fixture(scope="module")
def trained() -> UNetPurify:
    """A network that does something, without training: a last layer that is not 0."""
    purifier = UNetPurify(weights=None, strength=25.0, chroma=50.0)
    torch.nn.init.normal_(purifier.net.head.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return purifier


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def like(trained: UNetPurify, **options) -> UNetPurify:
    purifier = UNetPurify(weights=None, **({"strength": 25.0, "chroma": 50.0} | options))
    purifier.net.load_state_dict(trained.net.state_dict())
    return purifier


def test_registered():
    assert isinstance(create("unet", weights=None), UNetPurify)


def test_untrained_is_the_identity(x):
    purifier = UNetPurify(weights=None)
    assert torch.equal(purifier(x), x)
    assert not purifier.fitted


def test_strengths_are_in_levels(trained, x):
    expected = trained.net(x, torch.tensor([[25, 50]]).expand(4, 2) / 255)
    torch.testing.assert_close(trained(x), (expected + (x - expected).mean((2, 3), keepdim=True)).clamp(0, 1))


def test_the_mean_colour_of_each_image_stays(trained, x):
    inside = 0.25 + x / 2  # nothing is clamped
    moved = (trained(inside) - inside).mean((2, 3))
    assert moved.abs().max() < 1e-6 and (trained(inside) - inside).abs().max() > 0.01


def test_luma_alone_keeps_the_colour_differences(trained, x):
    y = like(trained, chroma=0.0).purify(x, KeyedNoise(0, torch.arange(4)))
    inside = (y > 0) & (y < 1)
    difference = (y - x) * inside.all(1, keepdim=True)
    assert difference.abs().max() > 1e-3
    torch.testing.assert_close(difference[:, 0], difference[:, 1], atol=1e-5, rtol=0)


def test_without_jitter_and_grain_nothing_is_drawn(trained, x):
    before = torch.get_rng_state()
    assert torch.equal(trained(x), trained(x))
    assert torch.equal(torch.get_rng_state(), before)
    assert not trained.randomized


def test_jitter_draws_both_strengths_anew_within_half_and_one_and_a_half(trained, x):
    purifier = like(trained, jitter=True)
    told = []
    purifier.net.register_forward_pre_hook(lambda net, args: told.append(args[1] * 255))
    many = x[:1].expand(512, -1, -1, -1)
    out = purifier(many)
    assert not torch.equal(out[0], out[1])
    factors = torch.cat(told) / torch.tensor([25.0, 50.0])
    assert 0.5 <= factors.min() < 0.52 and 1.46 < factors.max() <= 1.5
    assert abs(torch.corrcoef(factors.log().T)[0, 1]) < 0.15
    assert abs(factors.log().mean() - torch.tensor([0.5, 1.5]).log().mean()) < 0.03
    assert torch.equal(like(trained, jitter=True, seed=3)(x), like(trained, jitter=True, seed=3)(x))


def test_jitter_stays_below_what_was_trained(trained, x):
    purifier = like(trained, strength=100.0, chroma=100.0, jitter=True)
    told = []
    purifier.net.register_forward_pre_hook(lambda net, args: told.append(args[1] * 255))
    purifier(x)
    assert torch.cat(told).max() <= 100 + 1e-4


def test_grain_is_fresh_noise_of_its_sigma(trained, x):
    mid = x * 0.2 + 0.4
    smooth = trained(mid)
    grain = like(trained, grain=5.0)(mid) - smooth
    assert float(grain.std()) * 255 == pytest.approx(5, rel=0.05)
    assert not torch.equal(like(trained, grain=5.0)(mid) - smooth, grain)


def test_differentiable(trained, x):
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(like(trained, differentiable=True)(x).square().sum(), x)
    assert gradient.abs().mean() > 1e-2
    assert not trained(x).requires_grad


def test_photographs_of_any_size(trained):
    image = torch.randint(256, (3, 225, 150), dtype=torch.uint8)
    assert trained(image).shape == image.shape


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strength": -1.0}, ValueError, "strength"),
        ({"chroma": 101.0}, ValueError, "chroma"),
        ({"jitter": 1.5}, TypeError, "jitter"),
        ({"grain": "much"}, TypeError, "grain"),
        ({"arch": "large"}, ValueError, "arch"),
    ],
)
def test_arguments_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        UNetPurify(weights=None, **options)


def test_saved_and_loaded(trained, x, tmp_path):
    like(trained, jitter=False, grain=0.0).save_pretrained(tmp_path)
    loaded = UNetPurify(tmp_path)
    assert loaded.fitted and (loaded.strength, loaded.chroma) == (25, 50)
    assert torch.equal(loaded(x), trained(x))
    assert UNetPurify(tmp_path, strength=10.0).strength == 10


def test_fit_learns_reports_and_resumes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(32, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, 16, mode="bilinear", align_corners=True)
    data = smooth.mul(255).to(torch.uint8), torch.zeros(32, dtype=torch.int64)
    steps: list[FitStep] = []
    settings = {"updates": 100, "batch_size": 12, "lr": 3e-3}
    purifier = UNetPurify(weights=None, strength=25.0, chroma=25.0).fit(data, **settings, on_record=steps.append)
    assert purifier.fitted and len(steps) == 100 and steps[-1].updates == 100
    noisy = (smooth + 25 / 255 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
    assert (purifier(noisy) - smooth).square().mean() < 0.9 * (noisy - smooth).square().mean()
    file = tmp_path / "fit.safetensors"

    class Stop(Exception):
        pass

    def stop(step: FitStep) -> None:
        if step.step == 20:
            raise Stop

    with pytest.raises(Stop):
        UNetPurify(weights=None, strength=25.0, chroma=25.0).fit(
            data, **settings, checkpoint=file, save_every=10, on_record=stop
        )
    resumed = UNetPurify(weights=None, strength=25.0, chroma=25.0).fit(data, **settings, checkpoint=file, save_every=10)
    assert torch.equal(resumed(noisy), purifier(noisy))


def test_fit_goes_on_from_trained_weights(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    purifier = UNetPurify(tmp_path)
    before = purifier.net.head.weight.clone()
    data = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    purifier.fit(data, updates=1, batch_size=4, lr=1e-6)
    assert (purifier.net.head.weight - before).abs().max() < 1e-4
