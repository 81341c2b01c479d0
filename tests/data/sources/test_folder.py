"""The listing: everything below the source, in one order, with links that cannot lead astray."""

import os
import sys

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from puretransforms.data.sources.folder import list_folder, read_file
from puretransforms.errors import SourceError


def write(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def kinds(listing):
    return {entry.path: entry.kind for entry in listing.entries}


def reasons(listing):
    return {entry.path: entry.reason for entry in listing.entries if entry.kind == "skipped"}


def test_every_file_is_listed_once_in_order_of_its_path(tmp_path):
    names = ["b/2.png", "b/10.JPG", "a/z.jpeg", "a.png", "notes.txt", "a/deep/er/x.WebP", "a/.hidden", "none"]
    for name in names:
        write(tmp_path / name, b"12345")
    listing = list_folder(tmp_path)
    assert [entry.path for entry in listing.entries] == sorted(names)
    assert [path for path, kind in kinds(listing).items() if kind == "image"] == [
        name for name in sorted(names) if name not in ("notes.txt", "a/.hidden", "none")
    ]
    assert {entry.size for entry in listing.entries} == {5}
    assert listing.folders == ["a", "a/deep", "a/deep/er", "b"]


def test_label_is_the_class_folder(tmp_path):
    for name in ("cat/1.png", "cat/more/2.png", "top.png"):
        write(tmp_path / name)
    labels = {entry.path: entry.label for entry in list_folder(tmp_path).entries}
    assert labels == {"cat/1.png": "cat", "cat/more/2.png": "cat", "top.png": ""}


def test_agrees_with_image_folder(tmp_path):
    picture = Image.fromarray(np.zeros((2, 2, 3), np.uint8))
    for name in ("x/1.png", "x/sub/2.JPG", "y/3.bmp", "y/4.tiff", "y/5.webp", "y/6.ppm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / name)
    theirs = ImageFolder(tmp_path)
    ours = [(entry.path, entry.label) for entry in list_folder(tmp_path).entries]
    assert sorted((os.path.relpath(path, tmp_path), theirs.classes[label]) for path, label in theirs.samples) == ours


def test_links_inside_are_read_through_and_others_only_listed(tmp_path):
    source = tmp_path / "source"
    write(source / "a/1.png", b"123")
    write(tmp_path / "secret.png")
    write(tmp_path / "elsewhere/2.png")
    (source / "a/link.png").symlink_to("1.png")
    (source / "b").symlink_to("a")
    (source / "out.png").symlink_to(tmp_path / "secret.png")
    (source / "out").symlink_to(tmp_path / "elsewhere")
    (source / "dangling.png").symlink_to("nothing.png")
    (source / "self").symlink_to("self")
    listing = list_folder(source)
    assert {entry.path for entry in listing.entries if entry.kind == "image"} == {
        "a/1.png",
        "a/link.png",
        "b/1.png",
        "b/link.png",
    }
    assert {entry.size for entry in listing.entries if entry.kind == "image"} == {3}
    assert reasons(listing) == {
        "out.png": "a link to outside the source",
        "out": "a link to outside the source",
        "dangling.png": "a link to nothing",
        "self": "a link to nothing",
    }
    assert listing.folders == ["a", "b"]


def test_a_sibling_that_begins_like_the_source_is_outside(tmp_path):
    write(tmp_path / "source/1.png")
    write(tmp_path / "source2/2.png")
    (tmp_path / "source/link.png").symlink_to(tmp_path / "source2/2.png")
    assert reasons(list_folder(tmp_path / "source")) == {"link.png": "a link to outside the source"}


def test_folder_links_in_circles_end(tmp_path):
    for name in "abcdef":
        write(tmp_path / name / "1.png")
        for other in "abcdef":
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    (tmp_path / "up").symlink_to(tmp_path)
    listing = list_folder(tmp_path)
    images = [entry.path for entry in listing.entries if entry.kind == "image"]
    assert len(images) == 6 + 6 * 5
    why = reasons(listing)
    assert why["up"] == why["a/to_a"] == "a link to a folder around it"
    assert why["a/to_b/to_c"] == "a folder link below another folder link"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_listed_and_never_opened(tmp_path):
    write(tmp_path / "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert reasons(list_folder(tmp_path)) == {"pipe.png": "neither file nor folder (a pipe, socket or device)"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes names of any bytes")
def test_odd_names_come_back_as_the_same_bytes(tmp_path):
    names = [
        b"-rf.png",
        b"new\nline.png",
        b"\xff\xfe.png",
        "日本 ü.png".encode(),
        b" .png",
        b"a\\b.png",
        b"." * 3 + b"png",
    ]
    names.append(b"n" * 251 + b".png")
    for name in names:
        write(tmp_path / os.fsdecode(name))
    assert sorted(os.fsencode(entry.path) for entry in list_folder(tmp_path).entries) == sorted(names)


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda p: None, "no such folder"), (lambda p: p.write_bytes(b""), r": a file\. Give the folder")],
    ids=["missing", "a file"],
)
def test_refuses_what_is_no_folder(tmp_path, make, words):
    make(tmp_path / "source")
    with pytest.raises(SourceError, match=words):
        list_folder(tmp_path / "source")


def test_refuses_a_folder_without_images(tmp_path):
    write(tmp_path / "a/1.txt")
    with pytest.raises(SourceError, match=r"found 1 file\(s\) and none with an image suffix"):
        list_folder(tmp_path)


def test_refuses_a_folder_that_it_cannot_list(tmp_path, monkeypatch):
    write(tmp_path / "a/1.png")
    (tmp_path / "b").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="to list the folder 'b', got Permission denied"):
        list_folder(tmp_path)


@pytest.mark.parametrize("size", [0, 5, 99])
def test_a_file_is_read_to_its_end_whatever_its_size_was(tmp_path, size):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert read_file(str(tmp_path / "a"), size) == b"0123456789"
