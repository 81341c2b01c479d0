"""Pages: what is put in stays text."""

import numpy as np

from puretransforms.reporting.pages import page, picture_uri, visible


def test_nothing_that_is_put_in_becomes_markup():
    facts = {"purifier": "<script>alert(1)</script>", "seed": 0}
    values = {"scan": None, "counts": [], "sample": [], "chart": "", "no_chart": "", "classes": [], "most_changed": []}
    made = page("cleaning", headline='<b>"', facts=facts, listed=[], aside=[], left=0, **values).decode()
    assert (
        "<script" not in made
        and "&lt;script&gt;alert(1)&lt;/script&gt;" in made
        and "<h1>Cleaning report: &lt;b&gt;" in made
    )
    assert made.startswith("<!doctype html>") and made.rstrip().endswith("</html>")


def test_names_stand_on_one_line():
    assert visible("a\nb\x00c") == "a\\nb\\u0000c" and visible("é") == "é"


def test_pictures_are_shrunk_and_grey_ones_stay_grey():
    assert picture_uri(np.zeros((900, 600, 3), np.uint8)).startswith("data:image/png;base64,")
    assert len(picture_uri(np.zeros((4, 4, 1), np.uint8))) < 200
