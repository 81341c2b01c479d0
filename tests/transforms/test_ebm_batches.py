"""One image's result is the same whatever else is in its batch, and whether or not the run was cut in two."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from puretransforms.cleaning.clean import clean
from puretransforms.transforms.ebm import EBMPurify

SHIPPED = Path(__file__).parents[2] / "weights" / "ebm-small-32"


def untrained() -> EBMPurify:
    t = EBMPurify(weights=None, nf=16, steps=10)
    with torch.no_grad():
        t.net.head.weight.mul_(30)  # an untrained net hardly drifts
    t._trained = True  # or clean would train it first
    return t


def agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Within one level of 255 on at least 99.9 % of the values."""
    return a.shape == b.shape and bool(((a.int() - b.int()).abs() <= 1).double().mean() >= 0.999)


def read(folder: Path) -> torch.Tensor:
    files = sorted(folder.rglob("*.png"))
    return torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).permute(0, 3, 1, 2)


def test_a_cleaning_run_that_was_cut_gives_the_images_of_a_whole_one(tmp_path, monkeypatch):
    source = tmp_path / "source" / "class"
    source.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(24):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(source / f"{number:02d}.png")
    options = {"unit_size": 6, "workers": 1, "report": False, "progress": False}
    for batch_size in (1, 6):
        clean(source.parent, tmp_path / f"whole-{batch_size}", untrained(), batch_size=batch_size, **options)
    purify, calls = EBMPurify.purify, []

    def cut_in_the_third_unit(self, x, noise, labels=None):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return purify(self, x, noise)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EBMPurify, "purify", cut_in_the_third_unit)
        clean(source.parent, tmp_path / "cut", untrained(), batch_size=6, **options)
    assert calls == [6, 6, 6]
    monkeypatch.setattr(
        EBMPurify, "purify", lambda self, x, noise, labels=None: (calls.append(len(x)), purify(self, x, noise))[1]
    )
    clean(source.parent, tmp_path / "cut", untrained(), batch_size=6, **options)
    assert 2 <= len(calls) - 3 < 4, "the second run went on after the units that the first had finished"
    whole, cut, one_by_one = (read(tmp_path / name) for name in ("whole-6", "cut", "whole-1"))
    assert len(whole) == 24 and torch.equal(cut, whole) and agree(one_by_one, whole)
    assert not agree(whole, read(source.parent))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_shipped_weights_give_the_same_image_in_batches_of_1_16_and_256(real_data, precision):
    if not (SHIPPED / "model.safetensors").is_file():
        pytest.skip("weights/ebm-small-32 is not here")
    with np.load(real_data / "cifar10_lossless_6k.npz", allow_pickle=False) as file:
        x = torch.from_numpy(file["x_train"][:256]).permute(0, 3, 1, 2).contiguous()
    results = {}
    for size in (256, 16, 1):
        t = EBMPurify.from_pretrained(SHIPPED, seed=0, precision=precision, chunk_size=size)
        images = x if size > 1 else x[:32]  # one by one is slow
        results[size] = torch.cat([t(part) for part in images.split(size)])
    assert agree(results[16], results[256]) and agree(results[1], results[256][:32])
    assert not agree(results[256], x)
