"""The report is one well-formed page that shows what the manifest says."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from puretransforms.cleaning.clean import clean
from puretransforms.cleaning.manifest import Layout
from puretransforms.cleaning.report import render
from puretransforms.cleaning.summary import Summary


@pytest.fixture
def cleaned(source, tmp_path, purifier):
    (source / "<b>&amp;\n").mkdir()
    (source / "cat/00.png").rename(source / '<b>&amp;\n/"><script>.png')
    (source / "dog/bad.png").write_bytes(b"bad")
    with pytest.warns(UserWarning, match="damaged"):
        return clean(source, tmp_path / "out", purifier, workers=1, progress=False)


TAGS = {"html", "meta", "title", "style", "h1", "h2", "h3", "p", "pre", "code", "br", "div", "figure", "figcaption"}
TAGS |= {"head", "body", "img", "table", "tr", "th", "td", "a", "b", "span", "details", "summary"}
BESIDE = ("manifest.jsonl", "run.json")


def test_the_page_is_one_file_and_no_name_escapes_into_it(cleaned):
    """Nothing in it can load, run or lead to anything outside: known tags, pictures in the page, no address."""
    tags, pictures, others = set(), [], []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.add(tag)
            for name, value in attributes:
                if (tag, name) == ("a", "href"):
                    assert value in BESIDE
                    continue
                (pictures if (tag, name) == ("img", "src") else others).append(value or "")
                assert name not in ("href", "xlink:href", "srcset", "action", "background") and name[:2] != "on"

    page = cleaned.report.read_text("utf-8")
    Parser().feed(page)
    assert tags <= TAGS
    chart, *others_shown = sorted(pictures, key=lambda value: not value.startswith("data:image/svg+xml;base64,"))
    assert chart.startswith("data:image/svg+xml;base64,") and "<script" not in base64.b64decode(chart[26:]).decode()
    assert others_shown and all(value.startswith("data:image/png;base64,") for value in others_shown)
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert style and not [text for text in [style, *others] if "url(" in text or "@import" in text or "//" in text]
    assert "&lt;b&gt;&amp;amp;\\n" in page
    assert page.index("Cleaning report: 24 images purified, 1 damaged put aside") < page.index("<table>")
    assert "prefers-color-scheme: dark" in page and "@media print" in page and 'name="viewport"' in page
    assert "not an image that can be read" in page


def test_pictures_are_before_after_and_a_difference_that_is_cut_off_nowhere(cleaned):
    page = cleaned.report.read_text("utf-8")
    data = re.findall(r"image/png;base64,([^\"]+)", page)
    factors = [float(text) for text in re.findall(r'alt="difference x([\d.]+)"', page)]
    assert len(data) == 2 * 3 * 12  # a sample, and those that changed most
    assert len(factors) == 2 * 12
    for i, factor in enumerate(factors):
        three = (np.array(Image.open(io.BytesIO(base64.b64decode(d))), float) for d in data[3 * i : 3 * i + 3])
        before, after, shown = three
        exact = 127.5 + factor * (after - before)
        assert exact.min() >= 0 and exact.max() <= 255 and np.abs(shown - exact).max() <= 0.5
        assert shown.std() > 0


def test_the_purifier_is_named_in_a_sentence_and_no_repr_is_left(source, tmp_path):
    page = clean(source, tmp_path / "out", "jpeg:quality=10", workers=1, progress=False).report.read_text("utf-8")
    verdict = page.partition('<div class="verdict">')[2].partition("</div>")[0]
    assert "JPEGCompress" in verdict and "JPEG encode and decode by Pillow" in verdict and "mean PSNR is" in verdict
    assert "quality = 10" in page and "JPEGCompress(" not in page and "PosixPath" not in page


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


def test_without_matplotlib_the_report_has_no_chart_and_says_so(source, tmp_path, purifier, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = clean(source, tmp_path / "out", purifier, workers=1, progress=False).report.read_text("utf-8")
    assert "No chart" in page and "puretransforms[report]" in page and "image/svg" not in page
    assert page.count("data:image/png") == 2 * 3 * 12


def test_what_a_scan_said_stands_first(cleaned):
    with cleaned.manifest.open() as lines:
        summary = Summary.of(map(json.loads, lines))
    run = json.loads((cleaned.out / "run.json").read_text())
    run["scan"] = {"headline": "class-wise bounded (clear)", "sentence": "Looked <at> 24.", "purifier": "JPEG"}
    run["scan"] |= {
        "reasons": ["edges of '<b>'"],
        "misses": [],
        "dropped": {"images": 3, "by": {"patches": 3}},
        "left": 2,
    }
    counts = Summary(counts=summary.counts, aside=summary.aside)
    page = render(counts, run, Layout(cleaned.out), cleaned.source).decode()
    said = (
        "Scan: class-wise bounded (clear).",
        "Looked &lt;at&gt; 24.",
        "edges of &#39;&lt;b&gt;&#39;",
        "Purifier: JPEG",
    )
    places = [page.index(words) for words in (*said, "3 images that carry a trigger", ": 3 by patches", "<table>")]
    assert places == sorted(places)


BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


def opened(page, picture):
    """The console of a headless browser without a network that opens ``page`` as a file, and what it saw."""
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={picture.parent}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--enable-logging=stderr", "--window-size=1100,2600", f"--screenshot={picture}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], np.array(Image.open(picture))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_without_a_network_shows_it_and_has_nothing_to_say(cleaned, tmp_path):
    said, seen = opened(cleaned.report, tmp_path / "report.png")
    assert said == []
    colours, counts = np.unique(seen[..., :3].reshape(-1, 3), axis=0, return_counts=True)
    shares = {tuple(map(int, c)): n / counts.sum() for c, n in zip(colours, counts, strict=True)}
    assert shares[0x48, 0x78, 0xA8] > 0.001  # bars of the plot
    assert len(shares) > 1000  # noisy pictures
    broken = tmp_path / "broken.html"
    broken.write_text(cleaned.report.read_text("utf-8") + "<script>nothing()</script>")
    said, _ = opened(broken, tmp_path / "broken.png")
    assert len(said) == 1 and "nothing is not defined" in said[0]
