"""Decoding and encoding: what a file holds comes back, in 8 bits, upright, with alpha and colour profile."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from puretransforms.data.codec import decode, encode, looks_like_image
from puretransforms.errors import CorruptImageError


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels_of(decoded):
    return np.frombuffer(decoded.pixels, np.uint8).reshape(decoded.shape)


def round_trip(data):
    decoded = decode(data)
    return decoded, Image.open(io.BytesIO(encode(pixels_of(decoded), decoded)))


def make(mode, size=(7, 5), seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    rgba = Image.fromarray(values)
    return rgba.convert("RGB").quantize(16) if mode == "P" else rgba.convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_plain_images_come_back_without_loss(mode, kind):
    image = make(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = image.convert("RGB") if kind == "WEBP" else image
    decoded, back = round_trip(saved(image, kind, **options))
    assert decoded.converted is None
    assert back.mode == decoded.colour == expected.mode
    assert decoded.frames == 1
    assert np.array_equal(np.array(back), np.array(expected))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_stays_aside_and_returns(mode):
    image = make(mode)
    decoded, back = round_trip(saved(image))
    assert decoded.colour == mode[:-1]
    assert decoded.shape == (5, 7, len(mode) - 1)
    assert back.mode == mode
    assert np.array_equal(np.array(back), np.array(image))


@pytest.mark.parametrize(
    ("mode", "kind", "out"),
    [
        ("1", "PNG", "L"),
        ("P", "PNG", "RGB"),
        ("P", "GIF", "RGB"),
        ("CMYK", "TIFF", "RGB"),
        ("CMYK", "JPEG", "RGB"),
        ("YCbCr", "TIFF", "RGB"),
        ("LAB", "TIFF", "RGB"),
    ],
)
def test_other_modes_are_converted_and_say_so(mode, kind, out):
    image = make("RGB").convert("L").convert("1") if mode == "1" else make(mode) if mode != "LAB" else _lab()
    data = saved(image, kind)
    decoded, back = round_trip(data)
    assert decoded.converted == f"{mode}->{out}"
    assert decoded.mode == mode
    assert back.mode == out
    if mode != "LAB":
        assert np.array_equal(np.array(back), np.array(Image.open(io.BytesIO(data)).convert(out)))


def _lab():
    return ImageCms.profileToProfile(
        make("RGB"), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )


def test_lab_is_the_colour_that_it_was():
    image = Image.new("RGB", (4, 4), (200, 60, 30))
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert np.abs(pixels_of(decode(saved(lab, "TIFF"))).astype(int) - (200, 60, 30)).max() <= 3


@pytest.mark.parametrize(
    ("mode", "transparency", "out"), [("P", 3, "RGBA"), ("L", 7, "LA"), ("RGB", (1, 2, 3), "RGBA"), ("1", 1, "LA")]
)
def test_a_transparent_colour_becomes_alpha(mode, transparency, out):
    image = {
        "P": make("P"),
        "L": Image.fromarray(np.full((2, 2), 7, np.uint8)),
        "RGB": Image.new("RGB", (2, 2), (1, 2, 3)),
        "1": Image.new("1", (2, 2), 1),
    }[mode]
    decoded, back = round_trip(saved(image, transparency=transparency))
    assert decoded.converted == f"{mode}->{out}"
    assert back.mode == out
    assert np.array(back)[..., -1].min() == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_rounded(kind):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    decoded = decode(saved(Image.fromarray(values), kind))
    assert decoded.colour == "L"
    assert decoded.converted in ("I;16 0..65535->L", "I 0..65535->L")
    assert np.array_equal(pixels_of(decoded)[..., 0], (values.astype(np.uint32) + 128) // 257)


def test_sixteen_bit_colour_is_noted():
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = b"".join(b"\0" + struct.pack(">6H", 65535, 32768, 0, 256, 255, 1) for _ in range(2))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    decoded = decode(data + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b""))
    assert decoded.converted == "RGB;16->RGB"
    assert pixels_of(decoded)[0].tolist() == [[255, 128, 0], [1, 0, 0]]


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_floats_are_scaled_by_the_smallest_unit_that_bounds_them(top):
    values = (np.linspace(0, 1, 64, dtype=np.float32) * top).reshape(8, 8)
    decoded = decode(saved(Image.fromarray(values), "TIFF"))
    assert decoded.converted == f"F 0..{top:g}->L"
    assert np.array_equal(pixels_of(decoded)[..., 0], np.rint(values * (255 / top)).astype(np.uint8))


@pytest.mark.parametrize("bad", [-1.0, 1e6, np.nan, np.inf])
def test_floats_without_a_unit_are_refused(bad):
    values = np.ones((4, 4), np.float32)
    values[1, 2] = bad
    with pytest.raises(CorruptImageError, match="grey values from"):
        decode(saved(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    data = saved(make("RGB"), kind, exif=exif)
    decoded, back = round_trip(data)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decoded.size == expected.size
    assert np.array_equal(pixels_of(decoded), np.array(expected.convert("RGB")))
    assert np.array_equal(np.array(back), pixels_of(decoded))
    assert back.getexif().get(0x0112, 1) == 1
    if kind != "TIFF":
        assert back.getexif()[0x010F] == "a camera"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # clean() silences Pillow as a whole
def test_damaged_exif_does_not_cost_the_image():
    data = saved(make("RGB"), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40)
    assert decode(data).size == (7, 5)


def test_the_colour_profile_is_kept_where_it_fits():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    _, back = round_trip(saved(make("RGB"), "JPEG", icc_profile=profile))
    assert back.info["icc_profile"] == profile
    _, back = round_trip(saved(make("CMYK"), "JPEG", icc_profile=profile[:16] + b"CMYK" + profile[20:]))
    assert "icc_profile" not in back.info


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_frames_the_first_is_taken_and_all_are_counted(kind):
    frames = [make("RGB", seed=i) for i in range(4)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    decoded = decode(data)
    assert decoded.frames == 4
    assert np.array_equal(pixels_of(decoded), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [50, 10], ids=["warned", "refused by Pillow"])
def test_huge_images_are_refused_by_their_header(monkeypatch, limit):
    data = saved(Image.new("RGB", (10, 9)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(Image.Image, "load", None)  # nothing may be decoded
    with pytest.raises(CorruptImageError, match=f"more than {limit} pixels"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that can be read"),
    ],
)
def test_what_is_no_image_says_so_alike_in_every_run(data, reason):
    with pytest.raises(CorruptImageError, match=f"^{reason}$"):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_a_file_cut_in_the_middle_is_refused(kind):
    data = saved(make("RGB", (40, 40)), kind)
    with pytest.raises(CorruptImageError) as caught:
        decode(data[: len(data) // 2])
    assert "0x" not in str(caught.value)


def test_images_under_other_names_are_noticed():
    assert looks_like_image("x", saved(make("RGB"))[:16])
    assert looks_like_image("x.dat", saved(make("RGB"), "WEBP")[:16])
    assert looks_like_image("photo.HEIC", b"")
    assert not looks_like_image("notes.txt", b"plain text")
