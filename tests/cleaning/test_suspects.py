"""Images that carry a trigger are put aside, unpurified, from every kind of source."""

import hashlib
import json

import pytest

from puretransforms.auto import AutoPurify
from puretransforms.cleaning.clean import clean, estimate_clean
from puretransforms.data.open_source import open_source
from puretransforms.errors import CorruptImageError, UntouchedImageWarning

from .test_sources import COUNT, InMemory, as_folder, as_hugging_face, as_shards, in_memory, quietly, rows_of
from .test_sources import images as images  # a fixture

NUMBERS = (2, 7, 8)  # of the images that are named


class Told(AutoPurify):
    """As if a scan had named some images of the source."""

    def fit(self, dataset, **options):
        images = [entry.path for entry in dataset.entries if entry.kind == "image"]
        self._set([{"name": "grayscale"}])
        self.dropped = {images[i]: ["patches"] + ["levels"] * (i == 8) for i in NUMBERS}
        return self

    @property
    def scan_summary(self):
        said = {"headline": "triggered suspects (clear)", "sentence": "Found: a trigger.", "reasons": ["patches"]}
        return said | {"misses": ["at any share: warps"], "purifier": "Grayscale()", "dropped": self.dropped, "left": 0}


SOURCES = {
    "folder": lambda images, tmp_path: as_folder(tmp_path / "folder", images),
    "dataset": lambda images, tmp_path: InMemory(*images[:2]),
    "hugging face": lambda images, tmp_path: as_hugging_face(images),
    "shards": lambda images, tmp_path: str(as_shards(tmp_path / "shards", images) / "train-{000..002}.tar"),
}


@pytest.fixture(params=SOURCES)
def told(request, tmp_path, images):
    return SOURCES[request.param](images, tmp_path)


def test_suspects_go_aside_from_every_source(tmp_path, told, images, snapshot):
    out = tmp_path / "out"
    with pytest.warns(UntouchedImageWarning, match=r"^3 image\(s\) that carry a trigger were put aside"):
        result = quietly(told, out, Told(), report=True)
    assert result.counts == {"purified": COUNT - 3, "quarantined": 3} and result.unchanged == 0
    rows = [row for row in rows_of(result) if row["status"] != "packed"]
    aside = [row for row in rows if row["status"] == "quarantined"]
    assert [rows.index(row) for row in aside] == list(NUMBERS)
    one, both = "carries a trigger: patches", "carries a trigger: patches, levels"
    assert [row["reason"] for row in aside] == [one, one, both]
    for row in aside:
        kept = (tmp_path / "out.quarantine" / row["path"]).read_bytes()
        assert hashlib.sha256(kept).hexdigest() == row["sha256_in"] and row["suspect"] and row["out"] is None
    result.verify()
    for row in rows:
        if row["status"] == "purified":
            result.writer.read_back(row)
    run = json.loads((out / "run.json").read_text())["scan"]
    assert run == result.scan and run["dropped"]["by"] == {"patches": 2, "patches, levels": 1}
    page = result.report.read_text()
    assert "3 suspects put aside" in page and "Found: a trigger." in page and "carries a trigger: patches" in page
    assert "damaged" not in page
    before = snapshot(out)
    with pytest.warns(UntouchedImageWarning, match="carry a trigger"):
        quietly(told, out, Told())
    assert snapshot(out) == before


def test_auto_in_a_chain_puts_them_aside_too(tmp_path, images, monkeypatch):
    for name in ("fit", "scan_summary"):
        monkeypatch.setattr(AutoPurify, name, vars(Told)[name])
    with pytest.warns(UntouchedImageWarning, match=r"^3 image\(s\) that carry a trigger"):
        result = quietly(as_folder(tmp_path / "folder", images), tmp_path / "out", ["auto", "jpeg:quality=90"])
    assert result.counts == {"purified": COUNT - 3, "quarantined": 3} and result.scan["purifier"] == "Grayscale()"


def test_what_is_loaded_is_without_them(tmp_path, images):
    kept = [i for i in range(COUNT) if i not in NUMBERS]
    with pytest.warns(UntouchedImageWarning, match="carry a trigger"):
        assert [target for _, target in in_memory(InMemory(*images[:2]), Told())] == [images[1][i] for i in kept]
    with pytest.warns(UntouchedImageWarning, match="carry a trigger"):
        rows = in_memory(as_hugging_face(images), Told())
    assert rows["note"] == [f"note {i}" for i in kept] and all(image is not None for image in rows["img"])


def test_damaged_images_are_counted_apart(tmp_path, images):
    source = as_folder(tmp_path / "folder", images)
    (source / "ant/0001.png").write_bytes(b"no image")
    with pytest.warns(UntouchedImageWarning, match=r"3 image\(s\) that carry.*; 1 damaged image\(s\)"):
        result = quietly(source, tmp_path / "out", Told(), report=True)
    assert "3 suspects put aside, 1 damaged put aside" in result.report.read_text()
    with pytest.raises(CorruptImageError):
        quietly(source, tmp_path / "strict", Told(), strict=True)


def test_a_run_of_ranks_puts_the_same_aside(tmp_path, images, snapshot):
    source = as_folder(tmp_path / "folder", images)
    with pytest.warns(UntouchedImageWarning):
        quietly(source, tmp_path / "one", Told())
        for rank in range(2):
            quietly(source, tmp_path / "two", Told(), rank=rank, world_size=2)
    assert snapshot(tmp_path / "one.quarantine") == snapshot(tmp_path / "two.quarantine")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_fitted_one_says_that_its_suspects_stay(tmp_path, images):
    source = open_source(as_folder(tmp_path / "folder", images))
    fitted = Told().fit(source)
    with pytest.warns(UntouchedImageWarning, match="3 images that the scan of this Told named stay in: clean with"):
        result = clean(source, tmp_path / "out", fitted, workers=1, progress=False, report=False)
    assert result.counts == {"purified": COUNT} and result.scan is None


def test_a_dry_run_counts_them_apart_and_holds_the_verdict(tmp_path, images):
    source = as_folder(tmp_path / "folder", images)
    told = estimate_clean(source, tmp_path / "out", Told(), workers=1, progress=False)
    assert (told.images, told.suspects, told.sampled) == (COUNT, len(NUMBERS), COUNT - len(NUMBERS))
    assert told.seconds == pytest.approx((COUNT - len(NUMBERS)) / told.images_per_second)
    assert told.scan["headline"] == "triggered suspects (clear)" and told.scan["dropped"]["images"] == len(NUMBERS)
    assert not (tmp_path / "out.purifier").exists()
