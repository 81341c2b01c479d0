"""Pages: what is put in stays text."""

import numpy as np

from puretransforms.reporting.pages import page, picture_uri, signed, visible


def test_nothing_that_is_put_in_becomes_markup():
    facts = {"seed": 0}
    purifier = {"name": "<script>alert(1)</script>", "sentence": "", "options": "", "steps": ""}
    values = {
        "scan": None,
        "parts": [],
        "changed": False,
        "suspects": [],
        "change": "",
        "files": [],
        "sample": [],
        "chart": "",
        "no_chart": "",
        "classes": [],
        "most_changed": [],
    }
    made = page(
        "cleaning", headline='<b>"', facts=facts, purifier=purifier, listed=[], aside=[], left=0, **values
    ).decode()
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


def test_a_signed_picture_is_grey_at_nothing_and_cut_off_nowhere():
    assert signed(np.zeros((2, 2, 3)))[0].tolist() == np.full((2, 2, 3), 128).tolist()
    for most, factor in ((1, 50), (12, 10), (100, 1), (255, 0.5)):
        picture, by = signed(np.array([[[most], [-most], [0]]], float))
        assert by == factor and picture[0, :, 0].tolist() == [round(127.5 + by * most), round(127.5 - by * most), 128]
