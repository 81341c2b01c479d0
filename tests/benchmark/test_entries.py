"""One file for each result: what it says, what is no result."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from puretransforms.benchmark import entries
from puretransforms.benchmark.cases import Case
from puretransforms.benchmark.entries import (
    TEMPLATE,
    Entry,
    circumstances,
    entry_name,
    load_entries,
    load_entry,
    load_fidelity,
    provenance,
    save_entry,
)
from puretransforms.benchmark.fidelity import Fidelity
from puretransforms.benchmark.run import Result
from puretransforms.errors import ManifestMismatchError

ROOT = Path(__file__).parents[2]


def entry(poison: str = "lsp", purifier: str = "coin", seed: int = 0) -> Entry:
    result = Result(poison, purifier, "v", seed, "availability", [0.5], 0.9, [], {}, 2.5, "access")
    fidelity = Fidelity(poison, purifier, 5, 30.0, 20.0, 0.5, 21.0, 0.6, 0.25, 100.0)
    setting = {"name": "v", "network": "N", "width": 4, "epochs": 1, "batch_size": 8}
    about = {"command": "puretransforms bench", "data": "00ff", "setting": setting, "train_images": 50}
    return Entry(result, fidelity, about | {"test_images": 10} | circumstances("cpu"))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    one, other = entry(), replace(entry("clean", "none"), fidelity=None)
    save_entry(tmp_path / "deep", one), save_entry(tmp_path / "deep", other)
    assert load_entries(tmp_path) == [other, one], "clean data first"
    assert load_fidelity(tmp_path) == [one.fidelity]
    assert len(list((tmp_path / "deep").iterdir())) == 2, "and nothing else"
    assert load_entries(tmp_path / "nowhere") == []


def test_the_same_pair_measured_once_is_listed_once(tmp_path: Path) -> None:
    save_entry(tmp_path, entry(seed=0)), save_entry(tmp_path, entry(seed=1))
    assert len(load_fidelity(tmp_path)) == 1


def test_every_case_has_its_own_name_that_any_system_takes() -> None:
    names = {
        entry_name(Case(poison, purifier, "v", 0))
        for poison in ("lsp", "lsp:rate=0.5", "lsp:rate=0-5")
        for purifier in ("ebm", "ebm@once", "ebm:weights=a/b", "ebm:weights=a-b")
    }
    assert len(names) == 12 and all(name.isascii() and not set(name) & set('/\\:@=*?"<>| ') for name in names)


def test_hardware_and_code_have_a_name() -> None:
    about = circumstances("cpu")
    assert about["hardware"] and about["code"].startswith("puretransforms ") and about["threads"] >= 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda e: e.pop("about"), "it needs result, fidelity and about"),
        (lambda e: e["result"].pop("test"), r"result lacks \['test'\]"),
        (lambda e: e["result"].update(test=[]), "at least one of test"),
        (lambda e: e["result"].update(test=[84.2]), "fractions from 0 to 1"),
        (lambda e: e["result"].update(extra=1), r"\['extra'\] too much"),
        (lambda e: e["fidelity"].pop("ssim"), r"fidelity lacks \['ssim'\]"),
        (lambda e: e["about"].update(command=""), "about lacks command"),
        (lambda e: e["about"].pop("hardware"), "about lacks hardware"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, change: object, word: str) -> None:
    path = save_entry(tmp_path, entry())
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(ManifestMismatchError, match=f"expected a result of the benchmark in .*{word}"):
        load_entry(path)
    path.write_text("no JSON")
    with pytest.raises(ManifestMismatchError, match="expected a result of the benchmark"):
        load_entries(tmp_path)


def test_two_files_of_one_case_are_refused(tmp_path: Path) -> None:
    save_entry(tmp_path / "a", entry()), save_entry(tmp_path / "b", entry())
    with pytest.raises(ManifestMismatchError, match=r"one file for each case, got .* and .*: remove one"):
        load_entries(tmp_path)


def test_one_sentence_on_what_it_was_measured_with() -> None:
    text = provenance([entry(), replace(entry(), about=entry().about | {"threads": 64})])
    assert text.startswith(
        "Setting v: N of width 4, 1 epochs, batches of 8; 50 training and 10 test images (data 00ff)"
    )
    assert ", 64 thread(s) a run" in text and provenance([]) == ""


def test_the_template_is_an_entry_and_is_never_counted(tmp_path: Path) -> None:
    template = ROOT / "leaderboard" / TEMPLATE
    loaded = load_entry(template)
    assert set(loaded.about) == set(entries._ABOUT) and loaded.fidelity is not None
    (tmp_path / TEMPLATE).write_bytes(template.read_bytes())
    assert load_entries(tmp_path) == []
