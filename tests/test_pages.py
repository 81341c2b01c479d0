"""Numbers in the pages that the code knows better."""

import re
from pathlib import Path

import pytest

from puretransforms.scanning import detectors

ROOT = Path(__file__).parents[1]
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COUNT = re.compile(rf"\b({'|'.join(WORDS)}|\d+)\s+detectors", re.IGNORECASE)


def counts(text: str) -> list[int]:
    """Every number of detectors that a text names."""
    return [WORDS.index(n.lower()) + 1 if n.lower() in WORDS else int(n) for n in COUNT.findall(text)]


def test_the_pages_count_the_detectors_as_the_code_does():
    on_data = len(detectors.DETECTORS)
    asking = len(detectors.TRAINED)
    allowed = {on_data + asking, on_data, asking}
    found = {page.name: counts(page.read_text(encoding="utf-8")) for page in PAGES}
    assert {name: numbers for name, numbers in found.items() if set(numbers) - allowed} == {}
    assert all(on_data + asking in found[name] for name in ("README.md", "CHANGELOG.md", "scan.md"))
    table = (ROOT / "docs" / "scan.md").read_text(encoding="utf-8").partition("## The detectors")[2]
    rows = [line for line in table.partition("\n\n`energy`")[0].splitlines() if line.startswith("|")]
    assert len(rows) - 2 == on_data + asking


@pytest.mark.parametrize("text", ["Eight detectors", "the 8\ndetectors", "only eight detectors look"])
def test_a_wrong_count_is_found(text):
    assert counts(text) == [8]
