"""The tables say the means of the results; the pictures are SVG with every number in them."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from puretransforms.benchmark.fidelity import Fidelity
from puretransforms.benchmark.plot import matrix_svg, scatter_svg
from puretransforms.benchmark.report import cells, markdown, write_report
from puretransforms.benchmark.run import Result


def result(poison: str, purifier: str, seed: int, *test: float, success: tuple = (), by_class: dict | None = None):
    kind = "backdoor" if success else "availability"
    return Result(poison, purifier, "s", seed, kind, list(test), 0.5, list(success), by_class or {}, 10.0)


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
    assert (tmp_path / "new" / "report.md").read_text() == text
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert len(report["cells"]) == 3 and report["fidelity"][1]["gain"] == 0.5
    for name in ("accuracy.svg", "fidelity.svg"):
        ElementTree.parse(tmp_path / "new" / name)
    assert "lsp, gray: 25.5, 25.0" in (tmp_path / "new" / "fidelity.svg").read_text()


def test_the_matrix_has_a_cell_for_each_value() -> None:
    text = matrix_svg({("a<b", "x"): 12.34, ("c", "x"): 56.0, ("c", "y"): 7.0}, "t & u")
    root = ElementTree.fromstring(text)
    words = [node.text for node in root.iter() if node.text and node.text.strip()]
    assert {"a<b", "c", "x", "y", "12.3", "56.0", "7.0", "t & u"} == set(words)
    assert text.count("<rect") == 1 + 3


def test_the_scatter_has_a_point_for_each_and_stands_one_value() -> None:
    points = [(20.0, 50.0, "gray", "lsp"), (30.0, 80.0, "none", "lsp"), (30.0, 60.0, "none", "ops")]
    root = ElementTree.fromstring(scatter_svg(points, "dB", "%"))
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(circles) == 3 + 2
    x = [float(node.get("cx")) for node in circles[:3]]
    assert x[0] < x[1] == x[2]
    ElementTree.fromstring(scatter_svg([(20.0, 50.0, "gray", "lsp")], "dB", "%"))
    ElementTree.fromstring(scatter_svg([], "dB", "%"))
