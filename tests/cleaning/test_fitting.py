"""``clean`` with a purifier that is fitted first: what it fits to, breaks in either part, and what it refuses."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from puretransforms.cleaning.clean import clean
from puretransforms.errors import LabelError, ManifestMismatchError, NoImageError, SourceError
from puretransforms.train.rate import FitSchedule
from puretransforms.transforms.coin import COINInterpolate
from puretransforms.transforms.vae import VAEPurify

OPTIONS = {"schedule": FitSchedule(epochs=2, batch_size=6, lr=1e-3), "width": 4, "latent": 8, "precision": "fp32"}
FIT = partial(VAEPurify.fit, **OPTIONS)
CLASSES = ("ant", "bee")


@pytest.fixture
def source(tmp_path, picture) -> Path:
    """12 images of two classes, one of them grey, and a damaged one."""
    root = tmp_path / "source"
    for number in range(12):
        folder = root / CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number, channels=1 if number == 7 else 3).save(folder / f"{number:02d}.png")
    (root / "ant" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    return root


def quietly(source: Path, out: Path, purifier=FIT, **options):
    with pytest.warns(UserWarning, match="damaged"):
        return clean(source, out, purifier, **{"workers": 1, "progress": False, "unit_size": 4} | options)


def array(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_it_is_fitted_to_images_and_classes_and_purifies_with_both(source, tmp_path):
    result = quietly(source, tmp_path / "out")
    files = sorted(path for path in source.rglob("*.png") if path.name != "damaged.png")
    x = torch.from_numpy(np.stack([array(file) for file in files])).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    by_hand = VAEPurify.fit((x, labels), **OPTIONS, seed=0)
    kept = VAEPurify.from_pretrained(tmp_path / "out.purifier")
    assert all(
        torch.equal(a, b) for a, b in zip(kept.state_dict().values(), by_hand.state_dict().values(), strict=True)
    )
    want, without = by_hand(x, labels)[0], by_hand(x)
    for file, pixels, other in zip(files, want, without, strict=True):
        if file.name != "07.png":
            out = torch.from_numpy(array(tmp_path / "out" / file.relative_to(source)).copy()).permute(2, 0, 1).int()
            assert (out - pixels.int()).abs().max() <= 1 and (out - other.int()).abs().max() > 1
    assert result.counts == {"purified": 12, "quarantined": 1} and result.complete
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == list(CLASSES)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["classes"] == list(CLASSES)


class Cuttable(VAEPurify):
    """Stops after the update ``place``, or in the second unit of the cleaning."""

    place: tuple[int, int] | str | None = None
    seen: list = []

    @classmethod
    def fit(cls, samples, *, on_record, **options):
        def note(record):
            on_record(record)
            cls.seen.append((record.stage, record.step))
            if cls.seen[-1] == cls.place:
                raise KeyboardInterrupt

        return super().fit(samples, on_record=note, save_every=1, **options)

    def purify_labelled(self, x, labels, noise):
        type(self).seen.append(len(x))
        if self.place == "cleaning" and len(self.seen) > 1:
            raise KeyboardInterrupt
        return super().purify_labelled(x, labels, noise)


@pytest.mark.parametrize(
    ("place", "next_seen"), [((0, 1), (0, 2)), ((0, 2), (1, 1)), ((1, 1), (1, 2)), ("cleaning", None)]
)
def test_a_break_in_the_fit_or_in_the_cleaning_changes_no_byte(
    source, tmp_path, snapshot, monkeypatch, place, next_seen
):
    purifier = partial(Cuttable.fit, **OPTIONS | {"schedule": FitSchedule(epochs=1, batch_size=6, lr=1e-3)})
    quietly(source, tmp_path / "whole", purifier)
    if place == "cleaning":  # the fit is there
        shutil.copytree(tmp_path / "whole.purifier", tmp_path / "cut.purifier")
    monkeypatch.setattr(Cuttable, "seen", [])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Cuttable, "place", place)
        clean(source, tmp_path / "cut", purifier, workers=1, progress=False, unit_size=4)
    Cuttable.seen.clear()
    quietly(source, tmp_path / "cut", purifier)
    assert Cuttable.seen[0] == next_seen or (all(isinstance(seen, int) for seen in Cuttable.seen) and not next_seen)
    assert snapshot(tmp_path / "cut") == snapshot(tmp_path / "whole")
    assert snapshot(tmp_path / "cut.purifier") == snapshot(tmp_path / "whole.purifier")
    Cuttable.seen.clear()
    quietly(source, tmp_path / "cut", purifier)  # done: neither fitted nor cleaned again
    assert not Cuttable.seen


def test_one_bar_shows_both(source, tmp_path, capsys):
    quietly(source, tmp_path / "out", progress=True)
    shown = capsys.readouterr().err
    assert "fit, stage 1 of 2" in shown and "fit, stage 2 of 2" in shown and "clean" in shown
    assert "61/61" in shown, "two stages of two epochs of twelve images, and thirteen files"


def test_what_cannot_be_fitted_is_refused_before_anything_is_written(source, tmp_path, picture):
    with pytest.raises(TypeError, match=r"class COINInterpolate, which needs no fit: write COINInterpolate\(\)"):
        clean(source, tmp_path / "out", COINInterpolate)
    with pytest.raises(ValueError, match="to hold a fitted VAEPurify for a dry run"):
        clean(source, tmp_path / "out", VAEPurify, dry_run=True)
    with pytest.raises(ValueError, match="several processes, got none"):
        clean(source, tmp_path / "out", VAEPurify, rank=0, world_size=2)
    with pytest.raises(SourceError, match="local output"):
        clean(source, "memory://out", VAEPurify)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").write_text("")
    with pytest.raises(ManifestMismatchError, match="to be empty"):
        clean(source, tmp_path / "foreign", VAEPurify)
    with pytest.raises(SourceError, match="source and output apart"):
        clean(source, source / "out", VAEPurify)
    picture(1).save(source / "loose.png")
    with pytest.raises(LabelError, match="images with classes"):
        clean(source, tmp_path / "out", VAEPurify)
    assert not list(tmp_path.glob("*.purifier"))
    (source / "loose.png").unlink()
    picture(1, size=12).save(source / "ant" / "large.png")
    with pytest.raises(NoImageError, match="one size"):
        clean(source, tmp_path / "out", VAEPurify, progress=False)


def test_another_fit_does_not_take_the_place_of_one(source, tmp_path):
    quietly(source, tmp_path / "out")
    for changed, name in ((FIT, "seed"), (partial(FIT.func, **FIT.keywords | {"width": 6}), "options")):
        with pytest.raises(ManifestMismatchError, match=f"fitted as asked for now, but {name} differ"):
            clean(source, tmp_path / "out", changed, seed=int(name == "seed"), progress=False, unit_size=4)
