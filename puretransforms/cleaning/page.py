"""Parts of the HTML pages that reports are made of: one file each, no scripts, no links to other files."""

import base64
import html
import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

_SIDE = 256  # pixels; larger pictures are shrunk for the page

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } th { border-bottom: 1px solid #999 }
code, pre { overflow-wrap: anywhere; white-space: pre-wrap; font-size: .9em; margin: 0 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.2rem }
figure { margin: 0 } figcaption { font-size: .85rem; color: #555 }
.three { display: grid; grid-template-columns: 1fr 1fr 1fr; gap: .3rem }
img { width: 100%; image-rendering: pixelated; background: #ddd }
.bar { height: .8rem; margin-top: .35rem; background: #4878a8 } svg { max-width: 40rem; display: block }
"""


def data_uri(pixels: np.ndarray) -> str:
    """A uint8 picture ``[H, W, C]`` as the source of an ``img``."""
    picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of ready HTML cells; a head that starts with ``#`` makes a column of numbers."""
    kinds = [" class=n" if name.startswith("#") else "" for name in head]
    top = "".join(f"<th{kind}>{name.lstrip('#')}" for kind, name in zip(kinds, head, strict=True))
    body = ("".join(f"<td{kind}>{cell}" for kind, cell in zip(kinds, row, strict=True)) for row in rows)
    return f"<table><tr>{top if any(head) else ''}" + "".join(f"<tr>{line}" for line in body) + "</table>"


def text(value: Any) -> str:
    """Any text, made visible on one line (a file name may hold line breaks) and safe in HTML."""
    return html.escape(json.dumps(str(value), ensure_ascii=False)[1:-1])


def code(value: Any) -> str:
    """:func:`text` in the font of code."""
    return f"<code>{text(value)}</code>"
