"""Two hundred malformed inputs: none ends the run, and each is accounted for exactly once."""

import hashlib
import io
import json
import os
import random
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from puretransforms.cleaning.clean import clean
from puretransforms.errors import UntouchedImageWarning

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs links, pipes and file names of any bytes")


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_of(width, height, body=b"", depth=8, colour=2):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def make_files():
    """``{name as bytes: (content, expected status or None where either will do)}``."""
    draw = random.Random(0)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))
    whole = {kind: saved(photo, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}
    files: dict[bytes, tuple[bytes, str | None]] = {}

    def add(name, data, status=None):
        raw = name if isinstance(name, bytes) else name.encode()
        assert raw not in files
        files[raw] = (data, status)

    for kind, data in whole.items():  # 70 cut short
        for i in range(10):
            add(f"cut/{kind}{i}.{kind.lower()}", data[: len(data) * i // 12], "quarantined" if i < 6 else None)
    for kind, data in whole.items():  # 42 with flipped bits
        for i in range(6):
            damaged = bytearray(data)
            for _ in range(1 + 4 * i):
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            add(f"flip/{kind}{i}.{kind.lower()}", bytes(damaged))
    for i in range(20):  # random bytes, some behind a true signature
        head = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0"][i % 5]
        add(
            f"random/{i}.{'png' if i % 2 else 'jpg'}",
            head + draw.randbytes(10 * i),
            "quarantined" if i % 5 != 3 else None,
        )
    for kind, data in whole.items():  # 14 under a wrong suffix
        add(f"suffix/{kind}.jpg", data, "purified")
        add(f"suffix/{kind}.PNG", data, "purified")
    for i, suffix in enumerate(["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"]):  # 14 empty or zero
        add(f"empty/{i}.{suffix}", b"", "quarantined")
        add(f"zeros/{i}.{suffix}", bytes(1000), "quarantined")
    for i, (width, height) in enumerate([(2**31 - 1, 2**31 - 1), (100_000, 100_000), (2**20, 2**10), (0, 5), (5, 0)]):
        add(f"huge/{i}.png", png_of(width, height, b"\0" * 1000), "quarantined")
    add(
        "huge/bmp.bmp",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 60000, 60000, 1, 24, *[0] * 6),
        "quarantined",
    )
    add("huge/ppm.ppm", b"P6 90000 90000 255\n" + bytes(99), "quarantined")
    add("huge/long.ppm", b"P6 " + b"9" * 5000 + b" 1 255\n", "quarantined")

    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.arange(480, dtype=np.uint16).reshape(24, 20) * 130)
    floats = np.linspace(0, 1, 480, dtype=np.float32).reshape(24, 20)
    frames = [photo.rotate(40 * i) for i in range(3)]
    good = {
        "grey16.png": saved(grey16, "PNG"),
        "grey16.tif": saved(grey16, "TIFF"),
        "grey16.pgm": saved(grey16, "PPM"),
        "colour16.png": png_of(2, 2, b"".join(b"\0" + struct.pack(">6H", *range(6)) for _ in range(2)), depth=16),
        "cmyk.jpg": saved(photo.convert("CMYK"), "JPEG"),
        "cmyk.tif": saved(photo.convert("CMYK"), "TIFF"),
        "ycc.tif": saved(photo.convert("YCbCr"), "TIFF"),
        "float.tif": saved(Image.fromarray(floats), "TIFF"),
        "palette.png": saved(photo.quantize(8), "PNG", transparency=1),
        "bilevel.png": saved(photo.convert("1"), "PNG"),
        "alpha.png": saved(photo.convert("RGBA"), "PNG"),
        "greyalpha.png": saved(photo.convert("LA"), "PNG"),
        "turned.jpg": saved(photo, "JPEG", exif=exif),
        "badexif.jpg": saved(photo, "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 30),
        "longexif.png": saved(photo, "PNG", exif=b"Exif\0\0MM\0*" + bytes(5000)),
        "badicc.png": saved(photo, "PNG", icc_profile=b"no profile at all"),
        "progressive.jpg": saved(photo, "JPEG", progressive=True),
        "moving.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "moving.png": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "pages.tif": saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "trailing.jpg": whole["JPEG"] + b"trailing rubbish" * 100,
        "one.png": saved(Image.new("L", (1, 1)), "PNG"),
        "thin.png": saved(Image.new("RGB", (5000, 1)), "PNG"),
    }
    for name, data in good.items():
        add(f"odd/{name}", data, "purified")
    add("odd/negative.tif", saved(Image.fromarray(floats - 2), "TIFF"), "quarantined")
    add("odd/nan.tif", saved(Image.fromarray(floats * np.nan), "TIFF"), "quarantined")
    add("odd/script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "quarantined")
    names = [
        b"-rf.png",
        b"new\nline.png",
        b"\xff\xfe\x80.png",
        "日本 ü.png".encode(),
        b"a\\b'\"<>&.png",
        b"  .png",
        b"x.png.jpg",
    ]
    for name in [*names, b"%s%n{0}.png", b"n" * 251 + b".png", b"*?[x].png", b"tab\t.png", b"\x01\x7f.png", b"CON.png"]:
        add(b"names/" + name, whole["PNG"], "purified")
    add("names/twice.jpg", whole["JPEG"], "purified")
    add("names/twice.png", whole["PNG"], "purified")
    add("names/TWICE.bmp", whole["BMP"], "purified")
    add("folder/x.jpg", whole["JPEG"], "purified")  # beside a folder called x.png
    add("folder/x.png/inside.txt", b"text", "copied")
    return files


def make_links(source, outside):
    """Links and pipes: ``{name: expected status}``."""
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    links = source / "links"
    links.mkdir()
    (links / "escape.png").symlink_to(outside / "secret.png")
    (links / "escape").symlink_to(outside)
    (links / "dangling.png").symlink_to("nothing.png")
    (links / "circle.png").symlink_to("circle.png")
    (links / "up").symlink_to(source)
    (links / "inside.png").symlink_to("../odd/one.png")
    os.mkfifo(links / "pipe.png")
    names = ("escape.png", "escape", "dangling.png", "circle.png", "up", "pipe.png")
    return {b"links/inside.png": "purified"} | {f"links/{name}".encode(): "skipped" for name in names}


def test_each_of_200_malformed_inputs_is_accounted_for_once(tmp_path, purifier, snapshot):
    source, out = tmp_path / "source", tmp_path / "out"
    files = make_files()
    for name, (data, _) in files.items():
        path = source / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    expected = {name: status for name, (_, status) in files.items()} | make_links(source, tmp_path / "outside")
    assert len(expected) >= 200

    with pytest.warns(UntouchedImageWarning) as caught:
        result = clean(source, out, purifier, workers=2, unit_size=30, progress=False)
    assert len(caught) == 1
    assert result.complete
    result.verify()

    rows = [json.loads(line) for line in result.manifest.read_text().splitlines()]
    status = {os.fsencode(row["path"]): row["status"] for row in rows}
    assert len(rows) == len(status) == len(expected)
    wrong = {name: (status[name], want) for name, want in expected.items() if want and status[name] != want}
    assert not wrong
    assert set(status.values()) == {"purified", "copied", "quarantined", "skipped"}

    outs = [row["out"] for row in rows if row["out"] is not None]
    assert len({name.casefold() for name in outs}) == len(outs)
    for row in rows:
        name = os.fsencode(row["path"])
        if name in files and row["status"] != "skipped":
            assert row["sha256_in"] == hashlib.sha256(files[name][0]).hexdigest()
        if row["status"] == "quarantined":
            assert row["reason"]
            assert (tmp_path / "out.quarantine" / row["path"]).read_bytes() == files[name][0]
        if row["status"] == "purified":
            with Image.open(out / row["out"]) as image:
                assert (image.format, image.width, image.height) == ("PNG", row["width"], row["height"])
    by_name = {row["path"]: row for row in rows}
    assert (by_name["odd/turned.jpg"]["width"], by_name["odd/turned.jpg"]["height"]) == (24, 20)
    assert by_name["odd/cmyk.jpg"]["converted"] == "CMYK->RGB"
    assert {by_name[f"odd/{name}"]["frames"] for name in ("moving.gif", "moving.png", "pages.tif")} == {3}
    assert b"secret" not in b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())

    with pytest.warns(UntouchedImageWarning):
        clean(source, tmp_path / "again", purifier, workers=3, unit_size=30, batch_size=3, progress=False)
    assert snapshot(tmp_path / "again") == snapshot(out)
    assert snapshot(tmp_path / "again.quarantine") == snapshot(tmp_path / "out.quarantine")
