"""What the shipped weights of VAEPurify have to do on images that they never saw: the claims of their card."""

import math

import numpy as np
import pytest
import torch

from puretransforms.functional.rate import gaussian_rate
from puretransforms.models.dvae import frozen
from puretransforms.transforms.baselines import JPEGCompress
from puretransforms.transforms.vae import VAEPurify

Pair = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def tap(real_data) -> Pair:
    """256 CIFAR-10 images as published and under the published TAP poison."""
    with (
        np.load(real_data / "cifar10_lossless_6k.npz", allow_pickle=False) as clean,
        np.load(real_data / "tap_5k.npz", allow_pickle=False) as poisoned,
    ):
        arrays = clean["x_train"][:256], poisoned["x"][:256]
    return tuple(torch.from_numpy(array).permute(0, 3, 1, 2).contiguous() for array in arrays)


def point(purify, clean: torch.Tensor, poisoned: torch.Tensor) -> tuple[float, float]:
    """``(PSNR of clean images, share of the perturbation left)``."""
    out, d = purify(clean).double(), poisoned.double() - clean
    psnr = -10 * math.log10(float(((out - clean) / 255).square().mean()))
    return psnr, float(((purify(poisoned) - out) * d).sum() / d.square().sum())


def test_it_keeps_more_of_the_image_and_less_of_the_poison_than_jpeg(tap):
    psnr, left = point(VAEPurify(), *tap)
    curve = [point(JPEGCompress(quality), *tap) for quality in (30, 40, 50)]
    assert curve[0][0] < psnr < curve[-1][0]
    assert psnr > 27 and left < 0.9 * float(np.interp(psnr, *zip(*curve, strict=True)))
    assert left > 1.5 * point(JPEGCompress(10), *tap)[1], "the card says that JPEG-10 removes more"


def test_its_rate_is_the_limit_that_it_was_trained_at(tap):
    with torch.no_grad():
        rate = gaussian_rate(*frozen(VAEPurify().net).encode(tap[0] / 255))
    assert 2.6 < rate.item() < 3.4


def test_its_layers_may_compute_in_bfloat16(tap):
    half, full = (VAEPurify(precision=precision)(tap[0]).int() for precision in ("bf16", "fp32"))
    assert ((half - full).abs() <= 1).double().mean() > 0.99 and not torch.equal(half, full)


def test_an_image_does_not_depend_on_its_batch(tap):
    purify, x = VAEPurify(), tap[0][:32]
    whole = purify(x).int()
    for size in (1, 7):
        apart = torch.cat([purify(part) for part in x.split(size)]).int()
        assert ((apart - whole).abs() <= 1).double().mean() > 0.999


def test_the_package_carries_it(photo):
    purify = VAEPurify()
    assert purify.pretrained.startswith("vae-small-32@") and purify.num_classes is None
    assert (purify.width, purify.latent, purify.size) == (32, 128, 32)
    out = purify(photo)
    assert out.shape == photo.shape and out.dtype == torch.uint8 and not torch.equal(out, photo)
    change = (out.float() - photo.float()).abs().mean().item()
    assert 20 < change < 35, "the card warns of smooth synthetic pictures"
