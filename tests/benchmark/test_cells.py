"""The tables say the means of the results; the charts hold every number."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from puretransforms.benchmark.cells import cells, markdown, write_report
from puretransforms.benchmark.fidelity import Fidelity
from puretransforms.benchmark.run import Result


def result(poison: str, purifier: str, seed: int, *test: float, success: tuple = (), by_class: dict | None = None):
    kind = "backdoor" if success else "availability"
    return Result(poison, purifier, "s", seed, kind, list(test), 0.5, list(success), by_class or {}, 10.0)


def words(svg: str) -> set[str]:
    """The texts in a chart."""
    return {node.text.strip() for node in ElementTree.fromstring(svg).iter() if node.text and node.text.strip()}


RESULTS = [
    result("clean", "none", 0, 0.7, 0.8),
    result("badnets", "none", 0, 0.5, 0.7, success=(0.2, 0.9), by_class={"1": 1.0, "2": 0.8}),
    result("clean", "none", 1, 0.9, 0.6),
    result("badnets", "none", 1, 0.5, 0.7, success=(0.2, 0.7), by_class={"1": 0.6, "2": 0.8}),
    result("lsp", "gray", 0, 0.25),
]
FIDELITY = [
    Fidelity("clean", "none", 9, None, None, 1.0, None, 1.0, None),
    Fidelity("lsp", "gray", 9, 32.5, 24.25, 0.75, 25.5, 0.8, 0.5),
]


def test_cells_are_means_and_deviations_over_the_seeds() -> None:
    clean, badnets, lsp = cells(RESULTS)
    assert (clean.poison, clean.purifier, clean.seeds) == ("clean", "none", 2)
    assert clean.last == pytest.approx(70) and clean.last_std == pytest.approx(200**0.5)
    assert clean.peak == pytest.approx(85) and clean.success is None
    assert badnets.success == pytest.approx(80) and badnets.success_worst == pytest.approx(90)
    assert lsp.last_std == 0 and lsp.seeds == 1


def test_the_markdown_has_every_table() -> None:
    text = markdown(cells(RESULTS), FIDELITY)
    assert "| poison | none | gray |\n|---|---|---|\n| clean | 70.0 ± 14.1 |  |" in text
    assert "| lsp |  | 25.0 |" in text and "over at most 2 runs" in text
    assert text.count("| badnets | 80.0 ± 14.1 |") == 1 and "| badnets | 90.0 |" in text
    assert "| lsp | gray | 32.50 | 24.25 | 0.750 | 25.50 | 0.800 | 0.500 |" in text
    assert "| clean | none | ∞ | ∞ | 1.000 | ∞ | 1.000 |  |" in text
    assert "success" not in markdown(cells(RESULTS[-1:]), []) and "PSNR" not in markdown(cells(RESULTS[-1:]), [])


def test_setups_of_a_targeted_attack_are_runs_of_one_row() -> None:
    hits = [("setup=0", 0, 1.0), ("setup=0", 1, 0.0), ("setup=1", 0, 1.0), ("setup=2", 0, 1.0)]
    runs = [
        Result(f"bullseye_polytope:{setup}:rate=0.1", "none", "s", seed, "targeted", [0.8], 0.9, [hit], {"1": hit}, 1.0)
        for setup, seed, hit in hits
    ]
    (cell,) = cells(runs)
    assert cell.poison == "bullseye_polytope:rate=0.1" and cell.seeds == 4 and cell.success == pytest.approx(75)


def test_the_report_says_what_it_was_measured_with(tmp_path: Path) -> None:
    text = write_report(tmp_path, RESULTS, FIDELITY, "On two cores.")
    assert text.startswith("Percent; ") and " is given. On two cores.\n" in text
    assert json.loads((tmp_path / "report.json").read_text())["provenance"] == "On two cores."


def test_the_files(tmp_path: Path) -> None:
    text = write_report(tmp_path / "new", RESULTS, FIDELITY)
    assert (tmp_path / "new" / "report.md").read_text() == text and "No charts" not in text
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert len(report["cells"]) == 3 and report["fidelity"][1]["gain"] == 0.5
    for name in ("accuracy.svg", "fidelity.svg"):
        ElementTree.parse(tmp_path / "new" / name)
    assert {"70.0", "25.0", "badnets", "gray"} <= words((tmp_path / "new" / "accuracy.svg").read_text())
    assert {"lsp", "gray"} <= words((tmp_path / "new" / "fidelity.svg").read_text())


def test_without_matplotlib_the_tables_stand_alone_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = write_report(tmp_path, RESULTS, FIDELITY)
    assert "No charts: expected matplotlib" in text and "puretransforms[report]" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
