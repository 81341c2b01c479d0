"""Charts: every value is in them, and the same data give the same bytes."""

import sys
from xml.etree import ElementTree

import pytest

from puretransforms.errors import MissingExtraError
from puretransforms.reporting.plots import histogram_svg, matrix_svg, scatter_svg

SVG = "{http://www.w3.org/2000/svg}"


def words(svg):
    return {node.text.strip() for node in ElementTree.fromstring(svg).iter(f"{SVG}text")}


def bars(svg):
    return [node for node in ElementTree.fromstring(svg).iter(f"{SVG}path") if "#4878a8" in (node.get("style") or "")]


def test_the_matrix_has_a_number_for_each_value():
    text = matrix_svg({("a<b", "x$2"): 12.34, ("c", "x$2"): 56.0, ("c", "y"): 7.0}, "t & u")
    assert words(text) == {"a<b", "c", "x$2", "y", "12.3", "56.0", "7.0", "t & u"}
    assert text == matrix_svg({("a<b", "x$2"): 12.34, ("c", "x$2"): 56.0, ("c", "y"): 7.0}, "t & u")
    ElementTree.fromstring(matrix_svg({}, "nothing"))


def test_the_scatter_has_a_point_and_a_name_for_each():
    points = [(20.0, 50.0, "gray", "lsp"), (30.0, 80.0, "none", "lsp"), (30.0, 60.0, "none", "ops")]
    root = ElementTree.fromstring(scatter_svg(points, "dB", "%"))
    assert {"lsp", "ops", "gray", "none", "dB", "%"} <= {node.text.strip() for node in root.iter(f"{SVG}text")}
    groups = [node for node in root.iter(f"{SVG}g") if (node.get("id") or "").startswith("series")]
    assert [len(list(group.iter(f"{SVG}use"))) for group in groups] == [1, 2]
    ElementTree.fromstring(scatter_svg(points[:1], "dB", "%"))
    ElementTree.fromstring(scatter_svg([], "dB", "%"))


def test_a_histogram_adds_neighbours_up_to_at_most_so_many_bars():
    svg = histogram_svg({0: 5, 1: 7, 399: 3}, 0.25, "change")
    assert {"change", "images", "0"} <= words(svg) and svg == histogram_svg({0: 5, 1: 7, 399: 3}, 0.25, "change")
    assert len(bars(svg)) == 40
    assert len(bars(histogram_svg({0: 5, 1: 7}, 0.25, "change", bars=1))) == 1
    assert len(bars(histogram_svg({0: 5, 3: 7}, 0.25, "change"))) == 4


def test_without_matplotlib_one_sentence_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'puretransforms\[report\]'"):
        histogram_svg({0: 1}, 1.0, "x")
