"""The report is one well-formed page that shows what the manifest says."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from puretransforms.cleaning.run import clean
from puretransforms.cleaning.summary import Summary


@pytest.fixture
def cleaned(source, tmp_path, purifier):
    (source / "<b>&amp;\n").mkdir()
    (source / "cat/00.png").rename(source / '<b>&amp;\n/"><script>.png')
    (source / "dog/bad.png").write_bytes(b"bad")
    with pytest.warns(UserWarning, match="damaged"):
        return clean(source, tmp_path / "out", purifier, workers=1, progress=False)


def test_the_page_is_one_file_and_no_name_escapes_into_it(cleaned):
    tags, sources = set(), []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.add(tag)
            sources.extend(value for name, value in attributes if name in ("src", "href"))

    page = cleaned.report.read_text("utf-8")
    Parser().feed(page)
    assert not tags & {"script", "b", "link", "iframe"}
    assert sources and all(value.startswith("data:image/png;base64,") for value in sources)
    assert "&lt;b&gt;&amp;amp;\\n" in page
    assert "not an image that can be read" in page


def test_pictures_are_before_after_and_ten_times_the_difference(cleaned):
    data = re.findall(r"base64,([^\"]+)", cleaned.report.read_text("utf-8"))
    assert len(data) == 2 * 3 * 12  # a sample, and those that changed most
    for i in range(0, len(data), 3):
        before, after, tenfold = (np.array(Image.open(io.BytesIO(base64.b64decode(d)))) for d in data[i : i + 3])
        assert np.array_equal(tenfold, np.minimum(10 * np.abs(before.astype(int) - after), 255))
        assert tenfold.any()


def test_the_sample_shows_every_class_where_it_can(cleaned):
    with cleaned.manifest.open() as lines:
        rows = [json.loads(line) for line in lines]
    forwards, backwards = Summary.of(rows).sample(), Summary.of(rows[::-1]).sample()
    assert forwards == backwards
    assert len({row["path"] for row in forwards}) == 12
    assert {row["label"] for row in forwards} == {row["label"] for row in rows if row["status"] == "purified"}


def test_the_summary_is_the_mean_by_class(cleaned):
    with cleaned.manifest.open() as lines:
        rows = [json.loads(line) for line in lines]
    summary = Summary.of(rows)
    for label, change in summary.classes.items():
        mine = [row for row in rows if row["label"] == label and row["status"] == "purified"]
        assert (change.images, change.changed) == (len(mine), len(mine))
        assert change.mean_abs == pytest.approx(sum(row["mean_abs"] for row in mine))
        assert change.psnr == pytest.approx(sum(row["psnr"] for row in mine))
    expected = sorted((row["mean_abs"] for row in rows if row["status"] == "purified"), reverse=True)[:20]
    assert sorted((level for level, _, _ in summary.most_changed), reverse=True) == expected
    assert [row["path"] for row in summary.aside] == ["dog/bad.png"]
