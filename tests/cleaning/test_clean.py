"""``clean`` from end to end: what comes out, that nothing but the configuration decides it, and what is refused."""

import contextlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from puretransforms.cleaning.clean import clean, estimate_clean
from puretransforms.errors import (
    CorruptImageError,
    HardwareError,
    ManifestMismatchError,
    PurifierError,
    SourceError,
    UntouchedImageWarning,
)


def rows_of(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def quietly(source, out, purifier, **options):
    return clean(source, out, purifier, progress=False, **{"workers": 2, "unit_size": 5, **options})


def test_every_image_is_what_the_purifier_makes_of_it(source, tmp_path, purifier):
    result = quietly(source, tmp_path / "out", purifier, seed=3)
    assert result.complete
    assert result.counts == {"purified": 24, "copied": 1}
    purifier.seed = 3
    for row in rows_of(tmp_path / "out"):
        if row["status"] == "purified":
            before, after = (
                np.atleast_3d(np.array(Image.open(p))) for p in (source / row["path"], result.out / row["out"])
            )
            x = torch.from_numpy(before).permute(2, 0, 1)[None].contiguous()
            assert np.array_equal(after, purifier(x)[0].permute(1, 2, 0).numpy())
            change = after.astype(float) - before
            assert row["mean_abs"] == pytest.approx(np.abs(change).mean(), abs=1e-4)
            assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / (change**2).mean()), abs=1e-3)


def test_the_output_is_the_same_image_folder(source, tmp_path, purifier):
    (source / "empty").rmdir()  # ImageFolder takes no empty class
    quietly(source, tmp_path / "out", purifier)
    before, after = ImageFolder(source), ImageFolder(tmp_path / "out")
    assert after.classes == before.classes
    assert sorted(after.targets) == sorted(before.targets)
    assert {path.suffix for path in (tmp_path / "out").rglob("*/*.*")} == {".png", ".txt"}


def test_the_tree_is_mirrored_and_the_rest_copied(source, tmp_path, purifier, snapshot):
    quietly(source, tmp_path / "out", purifier)
    expected = {path.replace(".jpg", ".png") for path in snapshot(source)}
    assert set(snapshot(tmp_path / "out")) == expected | {"manifest.jsonl", "run.json", "report.html"}
    assert (tmp_path / "out/cat/notes.txt").read_text() == "not an image"
    assert (tmp_path / "out/empty").is_dir()  # its class keeps its number
    assert not (tmp_path / "out.quarantine").exists()


def test_the_manifest_accounts_for_every_file_in_order(source, tmp_path, purifier, snapshot):
    quietly(source, tmp_path / "out", purifier)
    rows = rows_of(tmp_path / "out")
    before, after = snapshot(source), snapshot(tmp_path / "out")
    assert [row["path"] for row in rows] == sorted(path for path, sha256 in before.items() if sha256 != "folder")
    assert [row["unit"] for row in rows] == [i // 5 for i in range(25)]
    assert {(row["sha256_in"], row["sha256_out"]) for row in rows} == {
        (before[r["path"]], after[r["out"]]) for r in rows
    }
    assert {row["label"] for row in rows} == {"cat", "dog", "eel"}


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"batch_size": 7}, {"batch_size": 256, "workers": 5}, {"workers": 1}], ids=str
)
def test_same_bytes_for_any_batch_size_and_number_of_workers(source, tmp_path, purifier, snapshot, options):
    quietly(source, tmp_path / "one", purifier)
    quietly(source, tmp_path / "two", purifier, **options)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_same_bytes_for_three_ranks_in_any_order(source, tmp_path, purifier, snapshot, order):
    quietly(source, tmp_path / "one", purifier)
    results = [quietly(source, tmp_path / "three", purifier, rank=rank, world_size=3) for rank in order]
    assert [result.complete for result in results] == [False, False, True]
    assert sum(results[1].counts.values()) < 25  # what is done so far
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "three")


def test_rank_and_world_size_come_from_the_environment(source, tmp_path, purifier, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not quietly(source, tmp_path / "out", purifier).complete
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="rank 2 of 2"):
        quietly(source, tmp_path / "out", purifier)


class Counting(torch.nn.Module):
    """The identity, which counts its images in a list shared by all copies and fails after so many."""

    calls: list[int] = []

    def __init__(self, limit=None):
        super().__init__()
        self.limit = limit

    def __repr__(self):
        return "Counting()"

    def forward(self, x):
        if self.limit is not None and sum(self.calls) + len(x) > self.limit:
            raise KeyError("the purifier failed")
        self.calls.append(len(x))
        return x


@pytest.fixture
def counting():
    Counting.calls.clear()
    return Counting


def test_a_finished_output_is_not_done_again(source, tmp_path, counting, snapshot):
    quietly(source, tmp_path / "out", counting())
    before = snapshot(tmp_path / "out")
    counting.calls.clear()
    again = quietly(source, tmp_path / "out", counting())
    assert again.complete
    assert again.counts == {"purified": 24, "copied": 1}
    assert not counting.calls
    assert snapshot(tmp_path / "out") == before


def test_a_failing_purifier_is_heard_and_the_next_call_goes_on(source, tmp_path, counting, snapshot):
    with pytest.raises(KeyError, match="the purifier failed"):
        quietly(source, tmp_path / "out", counting(limit=17))
    assert not (tmp_path / "out/manifest.jsonl").exists()
    counting.calls.clear()
    quietly(source, tmp_path / "out", counting())
    assert 24 - 17 <= sum(counting.calls) < 24  # the finished units were kept
    quietly(source, tmp_path / "whole", counting())
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_unchanged_images_have_no_psnr(source, tmp_path, counting):
    quietly(source, tmp_path / "out", counting())
    changes = {(row["psnr"], row["mean_abs"]) for row in rows_of(tmp_path / "out") if row["status"] == "purified"}
    assert changes == {(None, 0.0)}


def test_a_notebook_shows_what_was_done(source, tmp_path, purifier):
    shown = quietly(source, tmp_path / "a&b", purifier)._repr_html_()
    assert "purified" in shown and "a&amp;b" in shown and "report.html" in shown and "PosixPath" not in shown


def test_the_report_can_be_had_later(source, tmp_path, purifier, snapshot):
    assert quietly(source, tmp_path / "out", purifier, report=False).report is None
    assert quietly(source, tmp_path / "out", purifier).report == tmp_path / "out/report.html"
    quietly(source, tmp_path / "direct", purifier)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "direct")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda source, purifier: {"seed": 1}, "seed"),
        (lambda source, purifier: {"unit_size": 6}, "unit_size was 5, is 6"),
        (lambda source, purifier: setattr(purifier, "seed", 7), "purifier.repr"),
        (lambda source, purifier: purifier.register_buffer("w", torch.zeros(1)), "purifier.weights_sha256"),
        (lambda source, purifier: (source / "cat/new.txt").write_text(""), "the source has changed"),
        (lambda source, purifier: (source / "cat/notes.txt").write_text("other"), "source.bytes"),
    ],
)
def test_refuses_an_output_of_another_configuration(source, tmp_path, purifier, snapshot, change, named):
    quietly(source, tmp_path / "out", purifier)
    before = snapshot(tmp_path / "out")
    options = change(source, purifier)
    with pytest.raises(ManifestMismatchError, match=named):
        quietly(source, tmp_path / "out", purifier, **(options if isinstance(options, dict) else {}))
    assert snapshot(tmp_path / "out") == before


def test_batch_size_and_workers_are_no_part_of_the_configuration(source, tmp_path, purifier):
    quietly(source, tmp_path / "out", purifier, batch_size=1, workers=1)
    assert quietly(source, tmp_path / "out", purifier, batch_size=5, workers=3).complete


def test_refuses_a_folder_that_holds_something_else(source, tmp_path, purifier):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("")
    with pytest.raises(ManifestMismatchError, match=r"found 'thesis.tex'"):
        quietly(source, tmp_path / "out", purifier)
    (tmp_path / "new.quarantine").mkdir()
    with pytest.raises(ManifestMismatchError, match="left from an earlier run"):
        quietly(source, tmp_path / "new", purifier)


@pytest.mark.parametrize("out", ["source", "source/out", ".", "source/../source/cat"])
def test_refuses_source_and_output_inside_each_other(source, tmp_path, purifier, out):
    with pytest.raises(SourceError, match="source and output apart"):
        quietly(source, tmp_path / out, purifier)


def test_refuses_through_a_link_too(source, tmp_path, purifier):
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(SourceError, match="source and output apart"):
        quietly(source, tmp_path / "link/out", purifier)


def test_refuses_an_unfinished_output_as_source(source, tmp_path, purifier):
    quietly(source, tmp_path / "part", purifier, rank=0, world_size=2)
    with pytest.raises(SourceError, match="unfinished output"):
        quietly(tmp_path / "part", tmp_path / "out", purifier)


def test_refuses_a_file_as_output(source, tmp_path, purifier):
    (tmp_path / "out").write_text("")
    with pytest.raises(SourceError, match="expected a folder to write to"):
        quietly(source, tmp_path / "out", purifier)


@pytest.mark.parametrize("name", ["batch_size", "unit_size", "workers"])
def test_refuses_sizes_below_one(source, tmp_path, purifier, name):
    with pytest.raises(ValueError, match=f"expected {name} as a whole number"):
        quietly(source, tmp_path / "out", purifier, **{name: 0})


def test_an_output_can_be_cleaned_again(source, tmp_path, purifier):
    quietly(source, tmp_path / "once", purifier)
    result = quietly(tmp_path / "once", tmp_path / "twice", purifier)
    assert result.counts == {"purified": 24, "copied": 4}
    copied = (tmp_path / "twice/manifest.source.jsonl").read_bytes()
    assert copied == (tmp_path / "once/manifest.jsonl").read_bytes()
    result.verify()


@pytest.mark.parametrize(
    ("give", "got"),
    [
        (lambda x: x.float(), "float32"),
        (lambda x: x[:, :, 1:], "uint8"),
        (lambda x: None, "NoneType"),
        (lambda x: x[0], "uint8"),
    ],
)
def test_refuses_a_purifier_that_gives_something_else(source, tmp_path, give, got):
    with pytest.raises(PurifierError, match=f"into the same, got .*{got}"):
        quietly(source, tmp_path / "out", give)


def test_the_purifier_may_write_into_its_input(source, tmp_path):
    quietly(source, tmp_path / "out", lambda x: x.bitwise_not_())
    row = next(row for row in rows_of(tmp_path / "out") if row["status"] == "purified")
    before, after = np.array(Image.open(source / row["path"])), np.array(Image.open(tmp_path / "out" / row["out"]))
    assert np.array_equal(after, 255 - before)
    assert row["mean_abs"] > 10


def test_the_callers_purifier_and_random_state_stay_as_they_are(source, tmp_path, purifier):
    purifier.train()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    threads = torch.get_num_threads()
    quietly(source, tmp_path / "out", purifier)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert purifier.seed is None
    assert purifier.training


def test_every_transform_inside_is_seeded(source, tmp_path, purifier, snapshot):
    composed = v2.Compose([purifier, torch.nn.Sequential(purifier)])
    quietly(source, tmp_path / "one", composed, batch_size=3, seed=5)
    quietly(source, tmp_path / "two", composed, batch_size=8, seed=5)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_purifier_without_seed_repeats_its_draws(source, tmp_path, snapshot):
    def flip(x):
        return x.flip(-1) if torch.rand(()) < 0.5 else x

    quietly(source, tmp_path / "one", flip, batch_size=1)
    torch.rand(17)
    for rank in (1, 0):
        quietly(source, tmp_path / "two", flip, batch_size=1, rank=rank, world_size=2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_network_runs_in_eval_mode(source, tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.Dropout(0.5)
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return (self.norm(x.float()) * self.weight).to(torch.uint8)

    result = quietly(source, tmp_path / "out", Net())
    assert all(row["psnr"] is None for row in rows_of(result.out))
    assert len(json.loads((result.out / "run.json").read_text())["purifier"]["weights_sha256"]) == 64


def test_damaged_images_are_put_aside_and_named_once(source, tmp_path, purifier):
    whole = (source / "cat/00.png").read_bytes()
    (source / "cat/00.png").write_bytes(whole[:-40])
    said = rf"^1 damaged image\(s\) were put aside: cat/00\.png -> {tmp_path}/out\.quarantine/: see the manifest"
    with pytest.warns(UntouchedImageWarning, match=said) as caught:
        result = quietly(source, tmp_path / "out", purifier)
    assert len(caught) == 1
    assert result.counts == {"purified": 23, "copied": 1, "quarantined": 1}
    assert (tmp_path / "out.quarantine/cat/00.png").read_bytes() == whole[:-40]
    row = next(row for row in rows_of(tmp_path / "out") if row["path"] == "cat/00.png")
    assert (row["out"], row["status"]) == (None, "quarantined")
    assert row["reason"]
    with pytest.warns(UntouchedImageWarning):
        quietly(source, tmp_path / "out", purifier).verify()


def test_a_device_that_is_no_device_is_refused(source, tmp_path, purifier):
    with pytest.raises(HardwareError, match="expected a device such as cpu, cuda or cuda:1, got 'cdua'"):
        quietly(source, tmp_path / "out", purifier, device="cdua")
    assert not (tmp_path / "out").exists()


def test_strict_names_the_damaged_file(source, tmp_path, purifier):
    (source / "cat/00.png").write_bytes(b"")
    with pytest.raises(CorruptImageError, match=r"'cat/00.png': empty file\. Repair or remove"):
        quietly(source, tmp_path / "out", purifier, strict=True)


def test_other_things_that_are_not_purified_are_named(source, tmp_path, purifier, picture):
    (source / "cat/link.png").symlink_to("/etc/passwd")
    picture(1).save(source / "cat/no_suffix", "PNG")
    frames = [picture(i) for i in range(3)]
    frames[0].save(source / "dog/moving.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UntouchedImageWarning) as caught:
        quietly(source, tmp_path / "out", purifier)
    assert str(caught[0].message) == (
        "1 link(s) or file(s) were not read; 1 image(s) have several frames, of which only the first was kept; "
        "1 file(s) that look like images were copied unpurified: see the manifest for each."
    )
    rows = {row["path"]: row for row in rows_of(tmp_path / "out")}
    assert rows["dog/moving.gif"]["frames"] == 3
    assert rows["cat/link.png"]["status"] == "skipped"
    assert not (tmp_path / "out/cat/link.png").exists()


def test_unreadable_files_are_noted(source, tmp_path, purifier, monkeypatch):
    from puretransforms.data.sources import folder

    def refuse(path, size):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder, "read_file", refuse)
    with pytest.warns(UntouchedImageWarning, match=r"24 link\(s\) or file\(s\) were not read"):
        result = quietly(source, tmp_path / "out", purifier)
    assert result.counts == {"skipped": 24, "copied": 1}


def test_nothing_depends_on_the_clock_or_the_place(source, tmp_path, purifier):
    quietly(source, tmp_path / "out", purifier)
    written = b"".join((tmp_path / "out" / name).read_bytes() for name in ("manifest.jsonl", "run.json", "report.html"))
    assert bytes(tmp_path) not in written


def test_dry_run_writes_nothing_and_estimates(source, tmp_path, purifier, snapshot):
    (source / "cat/00.png").write_bytes(b"damaged")
    before = snapshot(tmp_path)
    estimate = estimate_clean(source, tmp_path / "some/out", purifier, workers=2)
    assert snapshot(tmp_path) == before
    assert (estimate.images, estimate.others, estimate.skipped) == (24, 1, 0)
    assert (estimate.sampled, estimate.damaged) == (24, 1)
    assert estimate.seconds == pytest.approx(24 / estimate.images_per_second)
    assert estimate.bytes_needed == 24 * 4096 + 12  # each tiny PNG takes one block
    assert estimate.bytes_in == sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert estimate.fits


def test_progress_counts_every_file(source, tmp_path, purifier, capsys):
    clean(source, tmp_path / "out", purifier, workers=1)
    shown = capsys.readouterr().err
    assert "25/25" in shown
    assert "img/s" in shown
    quietly(source, tmp_path / "quiet", purifier)
    assert capsys.readouterr().err == ""


def test_photographs_of_many_sizes_stay_within_the_pixel_budget(source, tmp_path, purifier, snapshot, monkeypatch):
    from puretransforms.cleaning import pipeline

    quietly(source, tmp_path / "one", purifier)
    sizes = []

    def watch(purifier, images, device, labels):
        sizes.append(sum(image.size[0] * image.size[1] for image in images))
        return purify_batch(purifier, images, device, labels)

    purify_batch = pipeline.purify_batch
    monkeypatch.setattr(pipeline, "purify_batch", watch)
    monkeypatch.setattr(pipeline, "_BATCH_PIXELS", 150)
    monkeypatch.setattr(pipeline, "_WAITING_PIXELS", 200)
    quietly(source, tmp_path / "two", purifier)
    assert max(sizes) < 150 + 12 * 12
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_full_disk_is_heard(source, tmp_path, purifier, monkeypatch):
    from puretransforms.cleaning.writers import base

    def full(path, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(base, "write_file", full)
        with pytest.raises(OSError, match="No space left"):
            quietly(source, tmp_path / "out", purifier)
    with contextlib.suppress(UntouchedImageWarning):
        assert quietly(source, tmp_path / "out", purifier).complete
