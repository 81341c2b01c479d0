"""Pictures and gallery pages of the site: ``make pictures``, a minute of one core. Nothing here is random.

The photographs are those that scikit-image bundles, all free of rights: an astronaut and a rocket (NASA and SpaceX,
public domain), a cat and a cup of coffee (S. van der Walt and R. Michetti, CC0). At 32 pixels they stand for a dataset
of small images; accuracies on a picture are read from docs/results.
"""

import json
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2 import functional as F

import puretransforms as pt
from puretransforms.functional.coin import draw_offsets
from puretransforms.functional.random import KeyedNoise
from puretransforms.registry import find, summary

DOCS = Path(__file__).parent
PICTURES, FIGURES = DOCS / "pictures", DOCS / "pictures" / "gallery.json"
GREY = (120, 124, 130, 255)  # of captions: readable on white and on black
GAP, LINE = 12, 22
FACTORS = (30, 20, 15, 10, 8, 5, 4, 3, 2, 1.5, 1)
LABELS = torch.tensor([0, 0, 1, 1])

GALLERY = [
    "coin",
    "ebm",
    "unet",
    "vae",
    "jpeg",
    "jpeg:quality=30:chroma_quality=10",
    "grayscale",
    "bitdepth",
    "gaussian",
]
GALLERY += ["median", "projection", "decoy"]
NEED_A_NETWORK = ["bullseye_polytope", "em_classwise", "em_samplewise", "gradient_matching", "hypo", "narcissus", "rem"]
NEED_A_NETWORK += ["sep", "tap"]


def photographs(size: int) -> torch.Tensor:
    """Four squares, uint8 ``[4, 3, size, size]``: astronaut, cat, coffee, rocket."""
    from skimage import data

    corners = {"astronaut": (0, 85, 290), "chelsea": (10, 100, 260), "coffee": (20, 130, 360), "rocket": (20, 190, 300)}
    squares = []
    for name, (top, left, side) in corners.items():
        picture = Image.fromarray(getattr(data, name)()[top : top + side, left : left + side])
        squares.append(F.pil_to_tensor(picture.resize((size, size), Image.Resampling.LANCZOS)))
    return torch.stack(squares)


# --- drawing ------------------------------------------------------------------------------------------------------


def enlarged(image: torch.Tensor, side: int) -> Image.Image:
    """Pixels stay squares."""
    return F.to_pil_image(image).resize((side, side), Image.Resampling.NEAREST)


def factor(differences: list[torch.Tensor]) -> float:
    """The largest that saturates no value of any of these differences (levels of 255)."""
    most = max((float(d.abs().max()) for d in differences), default=0.0)
    return next((f for f in FACTORS if f * most <= 127.5), 0.5)


def shown(difference: torch.Tensor, times: float) -> torch.Tensor:
    return (127.5 + times * difference).round().clamp(0, 255).to(torch.uint8)


def sheet(rows: list[list[tuple[Image.Image, str]]]) -> Image.Image:
    """Pictures in rows on a clear ground, each with a caption of one or two lines under it."""
    lines = [max(1 + text.count("\n") if text else 0 for _, text in row) for row in rows]
    heights = [max(p.height for p, _ in row) + LINE * n + GAP for row, n in zip(rows, lines, strict=True)]
    width = max(sum(p.width + GAP for p, _ in row) - GAP for row in rows)
    out = Image.new("RGBA", (width, sum(heights) - GAP), (255, 255, 255, 0))
    draw, font, y = ImageDraw.Draw(out), ImageFont.load_default(16), 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for picture, text in row:
            out.paste(picture, (x, y))
            middle = x + picture.width // 2
            for number, part in enumerate(text.split("\n") if text else []):
                draw.text((middle, y + picture.height + 3 + LINE * number), part, GREY, font, anchor="ma")
            x += picture.width + GAP
        y += height
    return out


def save(picture: Image.Image, name: str) -> None:
    path = PICTURES / f"{name}.png"
    picture.save(path, optimize=True)
    assert path.stat().st_size < 200_000, path


def steps(columns: list[tuple[str, torch.Tensor]], clean: torch.Tensor, side: int) -> Image.Image:
    """A row of images, and under each how it differs from the clean one."""
    images = [(enlarged(image, side), caption) for caption, image in columns]
    return sheet([images, [change(image.float() - clean, side) for _, image in columns]])


def change(difference: torch.Tensor, side: int) -> tuple[Image.Image, str]:
    """A difference as grey plus as much as fits, and its factor in words."""
    if not difference.abs().max():
        return enlarged(shown(difference, 1), side), "no\ndifference" if side < 120 else "no difference"
    times = factor([difference])
    return enlarged(shown(difference, times), side), f"change x{times:g}"


# --- one picture a page -------------------------------------------------------------------------------------------


def accuracies() -> dict[str, float]:
    """Test accuracy in percent, mean over the seeds of each case."""
    rows = [json.loads(line) for line in (DOCS / "results" / "cifar10-cuda-coin.jsonl").read_text().splitlines()]
    return {
        case: mean(100 * r["test_accuracy"] for r in rows if r["case"] == case) for case in {r["case"] for r in rows}
    }


def poisoned(name: str, images: torch.Tensor) -> torch.Tensor:
    poison = pt.create(name, "poison", num_classes=10)
    if poison.needs_fit:
        poison.fit((images, LABELS))
    return poison(images, LABELS, index=torch.arange(len(images)))[0]


def home(small: torch.Tensor) -> None:
    found, bad = accuracies(), poisoned("cuda", small)
    cured = pt.COINInterpolate(seed=0)(bad)
    columns = [
        (f"clean\naccuracy {found['clean']:.1f} %", small[1]),
        (f"with CUDA\naccuracy {found['poisoned']:.1f} %", bad[1]),
        (f"with COIN\naccuracy {found['online']:.1f} %", cured[1]),
    ]
    save(steps(columns, small[1].float(), 160), "home")


def start(_: torch.Tensor) -> None:
    """What the page `First five minutes` ends with: crop 116 of the flower (vultilion, CC BY 2.0)."""
    from sklearn.datasets import load_sample_image

    draw = np.random.default_rng(0)
    for name in ("china", "flower"):
        for number in range(150):
            top, left = draw.integers(0, 427 - 64), draw.integers(0, 640 - 64)
            if (name, number) == ("flower", 116):
                crop = Image.fromarray(load_sample_image("flower.jpg")[top : top + 64, left : left + 64])
    clean = F.pil_to_tensor(crop.resize((32, 32)))
    bad, _ = pt.create("classwise", "poison", num_classes=2)(clean, 1, index=266)
    columns = [("clean", clean), ("poisoned", bad), ("purified", pt.JPEGCompress(10)(bad))]
    save(steps(columns, clean.float(), 160), "start")


def coin(small: torch.Tensor) -> None:
    bad = poisoned("cuda", small)[1]
    noise = KeyedNoise(0, torch.tensor([0]))
    offsets = draw_offsets(noise, 32, 32, 2.0)[0]
    part, side, top, left = 12, 168, 8, 8
    cut = slice(top, top + part), slice(left, left + part)
    arrows = enlarged(bad[:, *cut], side).point(lambda v: 150 + v * 105 // 255)
    draw, cell = ImageDraw.Draw(arrows), side // part
    for i in range(part):
        for j in range(part):
            a, b = (float(v) for v in offsets[top + i, left + j])
            x, y = (j + 0.5) * cell, (i + 0.5) * cell
            draw.line((x, y, x + a * cell / 2, y + b * cell / 2), (40, 40, 60), 2)
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), (200, 40, 30))
    out = pt.COINInterpolate(seed=0)(bad)
    captions = ["12 x 12 pixels", "where each looks\n(half the distance)", "what it finds there"]
    pictures = [enlarged(bad[:, *cut], side), arrows, enlarged(out[:, *cut], side)]
    save(sheet([list(zip(pictures, captions, strict=True))]), "coin")


def ebm(small: torch.Tensor) -> None:
    bad = poisoned("lsp", small)
    columns = [("clean", small[1]), ("poisoned\nwith LSP", bad[1])]
    for count in (25, 50, 75):
        columns.append((f"{count} steps", pt.EBMPurify(steps=count, seed=0, precision="fp32")(bad)[1]))
    save(steps(columns, small[1].float(), 96), "ebm")


def unet(small: torch.Tensor) -> None:
    bad = poisoned("lsp", small)
    columns = [("clean", small[1]), ("poisoned\nwith LSP", bad[1])]
    for luma, chroma in ((16, 16), (25, 75), (60, 60)):
        columns.append(
            (f"strength\n{luma}, {chroma}", pt.UNetPurify(strength=float(luma), chroma=float(chroma))(bad)[1])
        )
    save(steps(columns, small[1].float(), 96), "unet")


def vae(small: torch.Tensor) -> None:
    bad = poisoned("classwise", small)
    columns = [("clean", small[1]), ("class-wise noise", bad[1])]
    columns += [("vae-small-32", pt.VAEPurify(precision="fp32")(bad)[1]), ("JPEG-30", pt.JPEGCompress(30)(bad)[1])]
    save(steps(columns, small[1].float(), 128), "vae")


def baselines(small: torch.Tensor) -> None:
    bad = poisoned("lsp", small)
    columns = [("poisoned\nwith LSP", bad[1])]
    columns += [(f"JPEG-{q}", pt.JPEGCompress(q)(bad)[1]) for q in (75, 30, 10)]
    save(steps(columns, small[1].float(), 128), "jpeg")
    others = {"Grayscale": "grayscale", "2 bits": "bitdepth", "Gaussian 3x3": "gaussian", "median 3x3": "median"}
    columns = [(title, pt.create(name)(bad)[1]) for title, name in others.items()]
    save(steps(columns, small[1].float(), 128), "baselines")


def crops() -> tuple[torch.Tensor, torch.Tensor]:
    """400 crops of the photographs, in ten classes that mean nothing: what is learned of them is the poison."""
    large, draw = photographs(96), np.random.default_rng(0)
    places = [(n % 4, *draw.integers(0, 64, 2)) for n in range(400)]
    return torch.stack([large[k, :, i : i + 32, j : j + 32] for k, i, j in places]), torch.arange(400) % 10


def fitted_projection(spec: str) -> pt.OrthogonalProjection:
    images, labels = crops()
    bad, _ = pt.create(spec, "poison")(images, labels, index=torch.arange(400))
    return pt.OrthogonalProjection(epochs=60, batch_size=50, lr=0.02).fit((bad, labels), seed=0)


def projection(small: torch.Tensor) -> None:
    bad, learned = poisoned("lsp", small), fitted_projection("lsp")
    pattern = learned.basis[:, 0].reshape(3, 32, 32)
    columns = [("clean", small[1]), ("poisoned\nwith LSP", bad[1]), ("projected", learned(bad)[1])]
    picture = steps(columns, small[1].float(), 128)
    pattern = enlarged(shown(pattern * 127 / pattern.abs().max(), 1), 128)
    save(sheet([[(picture, ""), (pattern, "one direction\nthat is removed")]]), "projection")


# --- galleries ----------------------------------------------------------------------------------------------------


def psnr(difference: torch.Tensor) -> float:
    return float(10 * torch.log10(255**2 / difference.square().mean()))


def poison_gallery(small: torch.Tensor) -> dict[str, dict[str, float]]:
    found = {}
    for name in sorted(set(pt.list_poisons()) - set(NEED_A_NETWORK)):
        bad = poisoned(name, small)
        d = bad.float() - small
        times = factor([d])
        rows = [[(enlarged(image, 118), "") for image in batch] for batch in (small, bad, shown(d, times))]
        for row, caption in zip(rows, ("clean", "poisoned", f"difference x{times:g}"), strict=True):
            row[:] = [(picture, caption) for picture, _ in row]
        save(sheet(rows), f"poison-{name}")
        lengths = (d / 255).flatten(1).norm(dim=1)
        found[name] = {"linf": int(d.abs().max()), "l2": round(float(lengths.mean()), 2), "psnr": round(psnr(d), 1)}
        found[name]["pixels"] = round(float((d != 0).any(1).float().mean()) * 100, 1)
    return found


def purifier_gallery(small: torch.Tensor) -> dict[str, dict[str, float]]:
    bad, found = poisoned("lsp", small), {}
    for spec in GALLERY:
        fixed = {"precision": "fp32"} if spec in ("ebm", "vae") else {}
        purify = fitted_projection("lsp") if spec == "projection" else pt.create(spec, "purifier", **fixed, seed=0)
        given = {"clean, 32 px": small[1], "with LSP, 32 px": bad[1]}
        if spec != "projection":
            size = 64 if fixed else 128  # the largest that their weights are for
            given[f"photo, {size} px"] = photographs(size)[2]
        rows, measured = [], []
        for caption, image in given.items():
            out = purify(image)
            rows.append(
                [(enlarged(image, 128), caption), (enlarged(out, 128), "purified"), change(out - image.float(), 128)]
            )
            measured.append(round(psnr(out - image.float()), 1))
        save(sheet(rows), f"purifier-{file_name(spec)}")
        found[spec] = dict(zip(("clean", "poisoned", "photograph"), measured, strict=False))
    return found


def file_name(spec: str) -> str:
    return spec.replace(":", "-").replace("=", "")


def one_line(name: str, role: str) -> str:
    """The first line of a docstring, as Markdown."""
    text = summary(name, role).replace("``", "`")
    head, _, rest = text.partition(":class:`")
    return f"{head}`{rest.removeprefix('~')}" if rest else text


POISON = """## {title}

{line}

![Clean, poisoned, and the difference, for two images of one class and two of another](pictures/poison-{name}.png)

`--with {name}` in a shell, `pt.create("{name}")` in Python; all options: {{py:class}}`puretransforms.poisons.{title}`.
On these four images: largest change {linf}/255, length {l2:.2f} (L2, pixels in [0, 1]), {pixels:.1f} % of the pixels
changed, PSNR {psnr:.1f} dB.
"""
PURIFIER = """## {title}

{line}

![Before, after, and what was changed](pictures/purifier-{file}.png)

`--with {spec}` in a shell, `pt.create("{spec}")` in Python; all options: {{py:class}}`puretransforms.{cls}`. PSNR
between before and after: {clean:.1f} dB on the clean image, {poisoned:.1f} dB on the poisoned one{photo}.
"""


def poison_page(figures: dict[str, dict[str, float]]) -> str:
    """The sections of the gallery of poisons, from ``gallery.json``."""
    return "\n".join(
        POISON.format(title=find(name, "poison").__name__, line=one_line(name, "poison"), name=name, **measured)
        for name, measured in figures.items()
    )


def purifier_page(figures: dict[str, dict[str, float]]) -> str:
    """The sections of the gallery of purifiers, from ``gallery.json``."""
    parts = []
    for spec, measured in figures.items():
        name = spec.partition(":")[0]
        cls = find(name, "purifier").__name__
        title = f"{cls}, luma and chroma apart" if ":" in spec else cls
        photo = f", {measured['photograph']:.1f} dB on the photograph" if "photograph" in measured else ""
        known = {"clean": measured["clean"], "poisoned": measured["poisoned"], "photo": photo, "file": file_name(spec)}
        parts.append(PURIFIER.format(title=title, line=one_line(name, "purifier"), spec=spec, cls=cls, **known))
    return "\n".join(parts)


def between(text: str, content: str) -> str:
    """``text`` with ``content`` between its two marks."""
    head, _, rest = text.partition("<!-- gallery -->\n")
    return f"{head}<!-- gallery -->\n\n{content}\n<!-- end of gallery -->{rest.partition('<!-- end of gallery -->')[2]}"


def main() -> None:
    torch.set_num_threads(1)
    small = photographs(32)
    for draw in (home, start, coin, ebm, unet, vae, baselines, projection):
        draw(small)
    figures = {"poisons": poison_gallery(small), "purifiers": purifier_gallery(small)}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    for page, write in (("poisons", poison_page), ("purifiers", purifier_page)):
        path = DOCS / f"gallery-{page}.md"
        path.write_text(between(path.read_text(), write(figures[page])))


if __name__ == "__main__":
    main()
