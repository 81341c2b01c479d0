"""``clean`` with a purifier that is fitted first, or reads labels: what it fits to, breaks, numbering, refusals."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from puretransforms.cleaning.clean import clean, clean_in_memory, estimate_clean
from puretransforms.data.samples import LabelledImages, gather
from puretransforms.errors import LabelError, ManifestMismatchError, NoImageError, NotFittedError, SourceError
from puretransforms.train.rate import FitSchedule
from puretransforms.transforms.baselines import JPEGCompress
from puretransforms.transforms.chain import PurifierChain
from puretransforms.transforms.projection import OrthogonalProjection
from puretransforms.transforms.vae import VAEPurify

SCHEDULE = FitSchedule(epochs=2, batch_size=6, lr=1e-3)
CLASSES = ("ant", "bee")


def unfitted(kind=VAEPurify, **options):
    return kind(
        weights=None, **{"schedule": SCHEDULE, "width": 4, "latent": 8, "size": 8, "precision": "fp32"} | options
    )


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


def quietly(source, out: Path, purifier, **options):
    with pytest.warns(UserWarning, match="damaged"):
        return clean(source, out, purifier, **{"workers": 1, "progress": False, "unit_size": 4} | options)


def array(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def same_state(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_is_fitted_to_images_and_classes_and_purifies_with_both(source, tmp_path):
    given = unfitted()
    result = quietly(source, tmp_path / "out", given)
    assert not given.fitted, "the caller's purifier stays as it was"
    files = sorted(path for path in source.rglob("*.png") if path.name != "damaged.png")
    x = torch.from_numpy(np.stack([array(file) for file in files])).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    by_hand = unfitted().fit((x, labels), seed=0)
    kept = VAEPurify.from_pretrained(tmp_path / "out.purifier")
    assert same_state(kept, by_hand) and kept.classes == list(CLASSES)
    want, without = by_hand(x, labels)[0], by_hand(x)
    for file, pixels, other in zip(files, want, without, strict=True):
        if file.name != "07.png":
            out = torch.from_numpy(array(tmp_path / "out" / file.relative_to(source)).copy()).permute(2, 0, 1).int()
            assert (out - pixels.int()).abs().max() <= 1 and (out - other.int()).abs().max() > 1
    assert result.counts == {"purified": 12, "quarantined": 1} and result.complete
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == list(CLASSES)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["classes"] == {"ant": 0, "bee": 1}


# --- numbering --------------------------------------------------------------------------------------------------------


class Numbered(LabelledImages):
    """Classes ``["2", "10"]``, whose alphabetical order is the other way round than their numbers 0 and 1."""

    def __init__(self, picture, numbers=(0, 1)):
        images = torch.stack([torch.from_numpy(np.array(picture(i))).permute(2, 0, 1) for i in range(8)])
        super().__init__(images, torch.tensor([numbers[i % 2] for i in range(8)]), ["2", "10"])


def as_shard(path: Path, picture) -> str:
    """The same images with ``2`` and ``10`` as the class member."""
    path.parent.mkdir()
    with tarfile.open(path, "w") as shard:
        for i in range(8):
            png = io.BytesIO()
            picture(i).save(png, "PNG")
            for suffix, data in (("png", png.getvalue()), ("cls", b"10" if i % 2 else b"2")):
                info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize("kind", ["dataset", "shards"])
def test_classes_that_sort_otherwise_than_they_count(tmp_path, picture, kind):
    """Fitted through ``clean``, saved, loaded, used with the dataset's own integers: as a fit in memory."""
    dataset = Numbered(picture)
    source, own = dataset, dataset
    if kind == "shards":  # their integers are 2 and 10
        source, own = as_shard(tmp_path / "shards/a.tar", picture), Numbered(picture, (2, 10))
    result = clean(source, tmp_path / "out", unfitted(), workers=1, progress=False)
    in_memory = unfitted().fit((own.images, own.targets), seed=0)
    loaded = VAEPurify.from_pretrained(tmp_path / "out.purifier")
    want = in_memory(own.images, own.targets)[0]
    assert same_state(loaded, in_memory)
    assert torch.equal(loaded(own.images, own.targets)[0], want)
    found = torch.stack([image for image, _ in gather(result.load() if kind == "dataset" else result.load()[0])])
    assert (found.int() - want.int()).abs().max() <= 1
    swapped = in_memory(own.images, own.targets.flip(0))[0]
    assert (found.int() - swapped.int()).abs().max() > 1, "the labels of the other class are another result"


def test_names_map_to_the_numbers_of_the_purifier(tmp_path, picture):
    """Fitted to ``["2", "10"]`` as 0 and 1, used on a folder, which counts "10" first."""
    dataset = Numbered(picture)
    purifier = unfitted().fit(dataset, seed=0)
    for i, (image, label) in enumerate(dataset):
        file = tmp_path / "folder" / dataset.classes[label] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        v2.functional.to_pil_image(image).save(file)
    result = clean(tmp_path / "folder", tmp_path / "out", purifier, workers=1, progress=False)
    want = purifier(dataset.images, dataset.targets)[0]
    for i, label in enumerate(dataset.targets):
        out = torch.from_numpy(array(result.out / dataset.classes[label] / f"{i}.png").copy()).permute(2, 0, 1)
        assert (out.int() - want[i].int()).abs().max() <= 1
    (tmp_path / "folder/2").rename(tmp_path / "folder/3")
    with pytest.raises(LabelError, match=r"this VAEPurify was fitted to \('2', '10'\), got '3': fit it to"):
        clean(tmp_path / "folder", tmp_path / "strange", purifier, workers=1, progress=False)
    loose = picture(1)
    loose.save(tmp_path / "folder/loose.png")
    with pytest.raises(LabelError, match="images with classes"):
        clean(tmp_path / "folder", tmp_path / "strange", purifier, workers=1, progress=False)
    assert not (tmp_path / "strange").exists()


def test_numbers_serve_where_there_are_no_names(tmp_path, picture):
    own = Numbered(picture, (2, 10))
    shard = as_shard(tmp_path / "shards/a.tar", picture)
    bare = unfitted().fit((own.images, own.targets), seed=0)
    named = unfitted().fit(LabelledImages(own.images, own.targets, [f"class {i}" for i in range(11)]), seed=0)
    assert bare.classes is None and same_state(bare, named)
    for number, purifier in enumerate((bare, named)):  # shards whose classes are numbers alone
        clean(shard, tmp_path / f"out{number}", purifier, workers=1, progress=False)
        assert json.loads((tmp_path / f"out{number}/run.json").read_text())["classes"] == {"10": 10, "2": 2}
    few = unfitted().fit((own.images, own.targets // 8), seed=0)
    with pytest.raises(LabelError, match="expected labels from 0 to 1, as this VAEPurify was fitted to, got 10"):
        clean(shard, tmp_path / "few", few, workers=1, progress=False)


# --- other purifiers --------------------------------------------------------------------------------------------------


def test_a_chain_is_fitted_kept_and_given_labels(source, tmp_path):
    projection = OrthogonalProjection(epochs=1, num_classes=2)
    result = quietly(source, tmp_path / "out", [unfitted(), "jpeg:quality=60"])
    kept = PurifierChain.from_pretrained(tmp_path / "out.purifier")
    assert kept.fitted and kept.purifiers[0].classes == list(CLASSES)
    files = [path for path in sorted(source.rglob("*.png")) if path.name not in ("damaged.png", "07.png")]
    x = torch.from_numpy(np.stack([array(file) for file in files])).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    kept.seed = 0
    want = kept(x, labels)[0]
    for file, pixels in zip(files, want, strict=True):
        out = torch.from_numpy(array(result.out / file.relative_to(source)).copy()).permute(2, 0, 1)
        assert (out.int() - pixels.int()).abs().max() <= 2
    quietly(source, tmp_path / "projected", projection)
    kept = OrthogonalProjection.from_pretrained(tmp_path / "projected.purifier")
    assert kept.fitted and not projection.fitted


def test_text_names_a_purifier_and_a_list_is_a_chain(source, tmp_path, snapshot):
    quietly(source, tmp_path / "one", "jpeg:quality=20")
    quietly(source, tmp_path / "two", JPEGCompress(quality=20))
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    quietly(source, tmp_path / "chain", ["jpeg:quality=20", "grayscale"], seed=3)
    quietly(source, tmp_path / "same", PurifierChain(["jpeg:quality=20", "grayscale"]), seed=3)
    assert snapshot(tmp_path / "chain") == snapshot(tmp_path / "same") != snapshot(tmp_path / "one")
    with pytest.raises(ValueError, match="Did you mean 'jpeg'"):
        clean(source, tmp_path / "out", "jpg")


def test_auto_is_fitted_like_any_other(source, tmp_path, picture):
    for number in range(100, 130):  # a scan leaves out what is smaller than 16 pixels
        picture(number, size=16).save(source / CLASSES[number % 2] / f"{number}.png")
    quietly(source, tmp_path / "out", "auto")
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["purifier"]["repr"].startswith("AutoPurify(chain=[") and "classes" not in run
    assert run["scan"].keys() == {"headline", "sentence", "reasons", "misses", "purifier", "dropped", "left"}
    assert run["scan"]["reasons"] and run["scan"]["dropped"]["images"] == 0 and run["scan"]["purifier"] == "none"
    assert run["scan"]["headline"] in (tmp_path / "out/report.html").read_text()
    assert json.loads((tmp_path / "out.purifier/fit.json").read_text())["fitted"]
    assert quietly(source, tmp_path / "out", "auto").images_per_second == 0


def test_a_fit_for_an_output_in_a_store_is_kept_there(source, tmp_path):
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    try:
        quietly(source, "memory://bucket/out", OrthogonalProjection(epochs=1))
        kept = fsspec.filesystem("memory").find("/bucket/out.purifier")
        assert {"fit.json", "model.safetensors", "config.json"} <= {path.rpartition("/")[2] for path in kept}
        again = quietly(source, "memory://bucket/out", OrthogonalProjection(epochs=1))
        assert again.complete and again.images_per_second == 0
    finally:
        MemoryFileSystem.store.clear()


def test_in_memory_and_estimates_fit_too_and_leave_nothing(tmp_path, picture, snapshot):
    dataset = Numbered(picture)
    purified = clean_in_memory(dataset, unfitted(), workers=1, progress=False)
    want = unfitted().fit(dataset, seed=0)(dataset.images, dataset.targets)[0]
    found = torch.stack([v2.functional.pil_to_tensor(image) for image, _ in purified])
    assert (found.int() - want.int()).abs().max() <= 1 and purified.targets == dataset.targets.tolist()
    estimate = estimate_clean(dataset, tmp_path / "out", unfitted(), workers=1, progress=False)
    assert estimate.images == 8 and not snapshot(tmp_path)


# --- breaks and refusals ----------------------------------------------------------------------------------------------


class Cuttable(VAEPurify):
    """Stops after the update ``place``, or in the second unit of the cleaning."""

    place: tuple[int, int] | str | None = None
    seen: list = []

    def fit(self, dataset, *, on_record=None, **options):
        def note(record):
            on_record(record)
            self.seen.append((record.stage, record.step))
            if self.seen[-1] == self.place:
                raise KeyboardInterrupt

        return super().fit(dataset, on_record=note, save_every=1, **options)

    def purify(self, x, noise, labels=None):
        type(self).seen.append(len(x))
        if self.place == "cleaning" and len(self.seen) > 1:
            raise KeyboardInterrupt
        return super().purify(x, noise, labels)


@pytest.mark.parametrize(
    ("place", "next_seen"), [((0, 1), (0, 2)), ((0, 2), (1, 1)), ((1, 1), (1, 2)), ("cleaning", None)]
)
def test_a_break_in_the_fit_or_in_the_cleaning_changes_no_byte(
    source, tmp_path, snapshot, monkeypatch, place, next_seen
):
    purifier = unfitted(Cuttable, schedule=FitSchedule(epochs=1, batch_size=6, lr=1e-3))
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


def test_the_first_of_several_processes_fits_and_the_others_wait(source, tmp_path, snapshot, monkeypatch):
    quietly(source, tmp_path / "whole", unfitted())
    first = []

    def other_process(seconds):
        assert len(first) == 0, "waits no longer than the fit takes"
        options = {"workers": 1, "progress": False, "unit_size": 4, "rank": 0, "world_size": 2}
        first.append(clean(source, tmp_path / "ranks", unfitted(), **options))

    monkeypatch.setattr("puretransforms.cleaning.fitting.time.sleep", other_process)
    assert quietly(source, tmp_path / "ranks", unfitted(), rank=1, world_size=2).complete
    assert not first[0].complete and snapshot(tmp_path / "ranks") == snapshot(tmp_path / "whole")


def test_one_bar_shows_both(source, tmp_path, capsys):
    quietly(source, tmp_path / "out", unfitted(), progress=True)
    shown = capsys.readouterr().err
    assert "fit, stage 1 of 2" in shown and "fit, stage 2 of 2" in shown and "clean" in shown
    assert "61/61" in shown, "two stages of two epochs of twelve images, and thirteen files"


def test_what_cannot_be_fitted_is_refused_before_anything_is_written(source, tmp_path, picture):
    with pytest.raises(TypeError, match=r"got the class JPEGCompress: write JPEGCompress\(\)"):
        clean(source, tmp_path / "out", JPEGCompress)
    with pytest.raises(NotFittedError, match="expected VAEPurify inside Compose to be fitted"):
        clean(source, tmp_path / "out", v2.Compose([unfitted()]))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").write_text("")
    with pytest.raises(ManifestMismatchError, match="to be empty"):
        clean(source, tmp_path / "foreign", unfitted())
    with pytest.raises(SourceError, match="source and output apart"):
        clean(source, source / "out", unfitted())
    picture(1).save(source / "loose.png")
    with pytest.raises(LabelError, match="images with classes"):
        clean(source, tmp_path / "out", unfitted())
    assert not list(tmp_path.glob("*.purifier"))
    (source / "loose.png").unlink()
    picture(1, size=12).save(source / "ant" / "large.png")
    with pytest.raises(NoImageError, match="one size"):
        clean(source, tmp_path / "out", unfitted(), progress=False)


def test_another_fit_does_not_take_the_place_of_one(source, tmp_path):
    quietly(source, tmp_path / "out", unfitted())
    for changed, name in ((unfitted(), "seed"), (unfitted(width=6), "config")):
        with pytest.raises(ManifestMismatchError, match=f"fitted as asked for now, but {name} differ"):
            clean(source, tmp_path / "out", changed, seed=int(name == "seed"), progress=False, unit_size=4)
