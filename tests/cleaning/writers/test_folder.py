"""Output names: natural where they can be, never two alike, and a function of the listing alone."""

import random

import pytest

from puretransforms.cleaning.manifest import OURS
from puretransforms.cleaning.writers.folder import output_paths
from puretransforms.data.sources.folder import IMAGE_SUFFIXES, Entry, Listing


def names(*paths, folders=()):
    entries = [Entry(p, "image" if p.lower().endswith(tuple(IMAGE_SUFFIXES)) else "other", 1) for p in sorted(paths)]
    return dict(zip(sorted(paths), output_paths(Listing("/root", entries, list(folders))), strict=True))


def test_images_become_png_and_other_files_keep_their_names():
    assert names("a/1.jpg", "a/2.PNG", "a.b/3.tar.webp", "a/notes.txt", "4.tiff") == {
        "a/1.jpg": "a/1.png",
        "a/2.PNG": "a/2.png",
        "a.b/3.tar.webp": "a.b/3.tar.png",
        "a/notes.txt": "a/notes.txt",
        "4.tiff": "4.png",
    }


@pytest.mark.parametrize(
    ("paths", "folders", "expected"),
    [
        (["a/x.jpg", "a/x.png"], [], ["a/x.jpg.png", "a/x.png.png"]),
        (["a/x.jpg", "b/x.png"], [], ["a/x.png", "b/x.png"]),
        (["a/X.jpg", "a/x.png"], [], ["a/X.jpg.png", "a/x.png.png"]),  # one file where case is ignored
        (["a/X.bmp", "a/x.bmp"], [], ["a/X.bmp.png", "a/x.bmp.2.png"]),
        (["a/x.bmp", "a/x.gif", "a/x.gif.jpg"], [], ["a/x.bmp.png", "a/x.gif.2.png", "a/x.gif.png"]),
        (["a/x.jpg"], ["a/x.png"], ["a/x.jpg.png"]),  # a folder with the name of an image
    ],
)
def test_files_that_want_one_name_keep_their_whole_names(paths, folders, expected):
    assert list(names(*paths, folders=folders).values()) == expected


def test_files_named_like_ours_make_room():
    taken = names("1.png", *OURS, "a/manifest.jsonl", "manifest.source.jsonl", "poison.json", "a/poison.json")
    assert taken["manifest.jsonl"] == "manifest.source.2.jsonl"
    assert taken["run.json"] == "run.source.json"
    assert taken["report.html"] == "report.source.html"
    assert taken[".puretransforms"] == ".puretransforms.source"
    assert taken["a/manifest.jsonl"] == "a/manifest.jsonl"
    assert taken["poison.json"] == "poison.source.json", "it describes the images as they were"
    assert taken["a/poison.json"] == "a/poison.json"


def test_over_long_names_are_cut_and_stay_apart():
    long = ["a/" + "ü" * 124 + end for end in ("x.jpg", "x.png", "y.jpg", "y.png")]
    made = list(names(*long).values())
    assert all(len(name.encode("utf-8", "surrogateescape")) <= 2 + 255 for name in made)
    assert len(set(made)) == 4


@pytest.mark.parametrize("seed", range(20))
def test_no_two_outputs_are_alike(seed):
    draw = random.Random(seed)
    parts = ["x", "X", "x.png", "x.jpg", "manifest", "x.2", "run"]
    suffixes = [".jpg", ".PNG", ".png", ".gif.png", ".json", ".jsonl", ""]
    paths = {f"{draw.choice(['', 'a/', 'A/'])}{draw.choice(parts)}{draw.choice(suffixes)}" for _ in range(60)}
    made = names(*paths)
    assert len({name.casefold() for name in made.values()} | set(OURS)) >= len({*made.values(), *OURS}) - 14
    assert len({*made.values(), *OURS}) == len(made) + len(OURS)
    images = [(path.rpartition("/")[0], name.casefold()) for path, name in made.items() if name.endswith(".png")]
    assert len(set(images)) == len(images)
