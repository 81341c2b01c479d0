"""The documentation: every public name has a page, pictures exist, figures are those of the result files."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import puretransforms as pt
from puretransforms import poisons

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ELSEWHERE = re.compile(r"<(?:script|link|img|iframe|source|video)\b[^>]*\b(?:src|href|srcset)=\"(?:https?:)?//[^\"]*\"")


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def result(name: str):
    return json.loads((DOCS / "results" / name).read_text())


def table(page: str, mark: str) -> list[list[str]]:
    """The cells of the table between two marks, without its head."""
    part = text(page).partition(f"<!-- {mark} -->")[2].partition(f"<!-- end of {mark} -->")[0]
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")
    ]
    assert len(rows) > 2
    return rows[2:]


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_an_api_page():
    listed = re.findall(r"^   (puretransforms\.\S+)$", text("api/index.md"), re.MULTILINE)
    names = {f"puretransforms.{name}" for name in pt.__all__}
    names |= {f"puretransforms.poisons.{name}" for name in poisons.__all__ if not hasattr(pt, name)}
    assert len(listed) == len(set(listed))
    modules = [name for name in listed if re.match(r"puretransforms\.(errors|(functional|train|benchmark)\.)", name)]
    assert all(Path(ROOT, *name.split(".")).with_suffix(".py").is_file() for name in modules)
    assert names == set(listed) - set(modules)


def test_every_page_can_be_reached():
    listed = set(re.findall(r"^([\w/-]+)$", text("index.md"), re.MULTILINE))
    assert {page.stem for page in PAGES} - {"index"} <= listed


def test_pictures_are_there_used_and_small():
    used = {name for page in PAGES for name in re.findall(r"\(pictures/([\w-]+\.png)\)", page.read_text())}
    there = {path.name: path.stat().st_size for path in (DOCS / "pictures").glob("*.png")}
    assert used == set(there) and max(there.values()) < 200_000


@pytest.mark.parametrize("page", ["index", "start", "coin", "ebm", "unet", "dvae", "jpeg", "projection", "auto"])
def test_a_page_that_should_have_a_picture_has_one(page):
    assert re.search(r"^!\[.{20,}\]\(\S+\.png\)$", text(f"{page}.md"), re.MULTILINE)


@pytest.mark.parametrize("page", ["coin", "ebm", "unet", "dvae", "jpeg", "projection", "auto", "glossary"])
def test_a_page_that_should_have_an_equation_has_one(page):
    assert re.search(r"^ *\$\$\n.+\n *\$\$$", text(f"{page}.md"), re.MULTILINE | re.DOTALL)


def test_the_galleries_show_every_name(pictures):
    shown = json.loads((DOCS / "pictures" / "gallery.json").read_text())
    assert set(shown["poisons"]) | set(pictures.NEED_A_NETWORK) == set(pt.list_poisons())
    assert {spec.partition(":")[0] for spec in shown["purifiers"]} | {"auto", "chain"} == set(pt.list_purifiers())
    for role, write in (("poisons", pictures.poison_page), ("purifiers", pictures.purifier_page)):
        page = text(f"gallery-{role}.md")
        assert pictures.between(page, write(shown[role])) == page, "run make pictures"


def test_accuracies_are_those_of_the_result_files(pictures):
    found = pictures.accuracies()
    for page in ("coin.md", "choose.md"):
        assert f"{found['purified']:.1f} %" in text(page) and f"{found['online']:.1f} %" in text(page)


def test_costs_are_those_of_the_result_file():
    measured = result("purifier-costs.json")["processor_seconds_for_50000_images"]
    rows = table("costs.md", "costs")
    assert [row[0] for row in rows] == list(measured)
    for name, *cells in rows:
        for cell, size in zip(cells, ("32 px", "224 px"), strict=True):
            number, _, unit = cell.partition(" ")
            if size not in measured[name]:
                assert cell == "not for this size"
                continue
            seconds = float(number) * {"s": 1, "min": 60, "h": 3600}[unit]
            assert abs(seconds - measured[name][size]) <= 0.04 * measured[name][size] + 0.05


@pytest.mark.slow  # half a minute of a core, and the packages of the group docs
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    for package in ("sphinx", "furo", "myst_parser", "latex2mathml", "sphinx_copybutton"):
        pytest.importorskip(package, reason="pip install --group docs")
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--fresh-env", "--quiet"]
    done = subprocess.run([*build, DOCS, tmp_path], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {f"puretransforms.{name}.html" for name in pt.__all__} <= {page.name for page in pages}
    assert not [
        (page.name, ELSEWHERE.findall(page.read_text())) for page in pages if ELSEWHERE.search(page.read_text())
    ]
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text()), sheet
    assert "<math" in (tmp_path / "coin.html").read_text()


def test_what_comes_from_elsewhere_is_seen():
    assert ELSEWHERE.search('<script defer src="https://cdn.example/x.js">') and ELSEWHERE.search(
        '<img src="//a/b.png">'
    )
    assert not ELSEWHERE.search('<a href="https://example.org">')
