"""The confusion table: no poison is judged by thresholds that have seen its family; and the pages hold its figures."""

import importlib.util
import json
from pathlib import Path

import pytest

from puretransforms.scanning.calibration import calibration, fit_threshold
from puretransforms.scanning.detectors import DETECTORS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("scan_table", ROOT / "experiments" / "scan_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(poison, part, edges, rate=1.0):
    findings = [
        {
            "name": name,
            "score": edges if name == "edges" else 0.0,
            "error": 0.0,
            "classes": {"a": edges},
            "untested": "",
            "evidence": {},
        }
        for name in [*DETECTORS, "energy"]
    ]
    about = {"poison": poison, "rate": rate, "part": part, "seed": 0}
    return {"set": about, "images": 2000, "findings": findings, "cpu_seconds": 1.0}


@pytest.fixture(scope="module")
def rows():
    return [
        *(row("clean", "fit", score, 0) for score in (0.0, 0.01)),
        row("CUDA", "fit", 0.9),
        row("LSP", "fit", 0.4),
        row("VUDA", "test", 0.2),
        row("LSP", "test", 0.2),
        row("clean", "test", 0.02, 0),
        row("clean", "test", 0.06, 0),
    ]


def test_thresholds_are_fitted_without_the_family(table, rows):
    everything, without = table.fit(rows), table.fit(rows, "convolution")
    assert without["edges"] == everything["edges"] == table.fit(rows, "SIG")["edges"], "LSP's is the lowest either way"
    assert table.fit(rows, "LSP")["edges"] > everything["edges"]
    assert table.family("VUDA") == table.family("CUDA, reflected") == "convolution" and table.family("AR") == "AR"
    assert set(everything) == set(DETECTORS), "evidence has no threshold"
    test = [row("CUDA", "test", 0.0)]
    assert table.fit(rows + test) == everything, "sets of the test count for no threshold"


def test_each_set_is_judged_by_the_thresholds_of_its_family(table, rows):
    found = table.tabulate(rows)
    strict = table.fit(rows, "LSP")["edges"]
    assert table.fit(rows)["edges"] < 0.2 < strict
    assert found["poisons"]["VUDA"]["1"]["found"] == 1 and found["poisons"]["LSP"]["1"]["found"] == 0
    assert (found["fully_poisoned"]["found"], found["fully_poisoned"]["sets"]) == (1, 2)
    assert (found["clean"]["found"], found["clean_worst_fit"]["found"], found["clean"]["sets"]) == (0, 0, 2)
    assert "1 of 2 wholly poisoned sets" in table.sentence(found)
    assert "| VUDA | 1/1 |" in table.markdown(found)


def test_the_shipped_thresholds_and_the_pages_follow_from_the_scores(table):
    if not RESULTS.is_dir():
        pytest.skip("a package without the pages")
    rows = [json.loads(line) for line in (RESULTS / "scan-scores.jsonl").read_text().splitlines()]
    found = table.tabulate(rows)
    apart = json.loads((RESULTS / "scan-neighbours.json").read_text())
    assert found["thresholds"] | {"neighbours": apart["threshold"]} == calibration()["thresholds"]
    assert apart["threshold"] == round(
        fit_threshold([row["low"] for row in apart["sets"] if row["part"] == "fit"], []), 5
    )
    assert calibration()["measured"]["words"] == table.sentence(found)
    assert calibration()["measured"]["misses"] == table.misses(found)
    assert calibration()["measured"]["images"] in found["images_a_set"]
    saved = json.loads((RESULTS / "scan-confusion.json").read_text())
    assert json.loads(json.dumps(found)) == saved
    for page in (ROOT / "docs" / "scan.md", RESULTS / "README.md"):
        text = page.read_text()
        for line in table.markdown(found).splitlines():
            assert line in text or line.startswith("| clean")
        assert f"{found['clean']['found']} of {found['clean']['sets']}" in text
