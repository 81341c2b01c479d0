import pytest
import torch

from puretransforms.errors import NoImageError
from puretransforms.functional.corruption import CHANGES, FIELDS
from puretransforms.models.unet import PurifierUNet
from puretransforms.train.unet import FAMILIES, averaged, denoise_and_damp


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(64, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, 16, mode="bilinear", align_corners=True)
    return smooth.mul(255).to(torch.uint8)


def net() -> PurifierUNet:
    torch.manual_seed(0)
    return PurifierUNet(16, 16, (0, 1, 1))


def test_it_learns_both_tasks(images):
    records = list(denoise_and_damp(net(), images, updates=120, batch_size=24, lr=3e-3))
    assert records[0].step == 1 and records[-1].step == 120
    assert records[0].denoised == pytest.approx(1, abs=0.1), "a new network is the identity"
    last = records[-15:]
    assert sum(r.denoised for r in last) / 15 < 0.75
    assert sum(r.gain for r in last) / 15 < 0.9


def test_a_resumed_run_is_bit_equal(images):
    whole = net()
    states = [r.state() for r in denoise_and_damp(whole, images, updates=6, batch_size=6)]
    resumed = net()
    rest = [r.state() for r in denoise_and_damp(resumed, images, updates=6, batch_size=6, state=states[2])]
    assert states[-1].keys() == rest[-1].keys()
    for name, tensor in states[-1].items():
        assert torch.equal(tensor, rest[-1][name]), name


def test_the_average_lags_and_loads(images):
    trained = net()
    record = list(denoise_and_damp(trained, images, updates=5, batch_size=6, lr=1e-2))[-1]
    average = averaged(net(), record.state())
    first = net()
    moved = (trained.head.weight - first.head.weight).norm()
    lag = (average.head.weight - trained.head.weight).norm()
    assert 0 < lag < moved
    with torch.no_grad():
        assert average(torch.rand(1, 3, 16, 16), torch.full((1, 2), 0.1)).shape == (1, 3, 16, 16)


def test_global_generators_stay_where_they_are(images):
    small = net()
    before = torch.get_rng_state()
    list(denoise_and_damp(small, images, updates=2, batch_size=6))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_task_alone(images, share):
    (record,) = denoise_and_damp(net(), images, updates=1, batch_size=4, denoising=share)
    assert (record.denoised == record.denoised) == (share == 1)  # not a number where nothing was denoised
    assert (record.gain == record.gain) == (share == 0)


def test_families_are_known_and_can_be_left_out(images):
    assert FAMILIES.keys() <= FIELDS.keys() | CHANGES.keys()
    (record,) = denoise_and_damp(net(), images, updates=1, batch_size=6, families={"blocks": 1.0})
    assert record.loss > 0
    with pytest.raises(ValueError, match=r"expected families among .*got mosaics"):
        next(denoise_and_damp(net(), images, updates=1, families={"mosaics": 1.0}))
    with pytest.raises(ValueError, match=r"share of denoising from 0 to 1, got 2.0"):
        next(denoise_and_damp(net(), images, updates=1, denoising=2.0))


def test_images_have_to_be_8_bit(images):
    with pytest.raises(NoImageError, match="uint8"):
        next(denoise_and_damp(net(), images.float(), updates=1))
