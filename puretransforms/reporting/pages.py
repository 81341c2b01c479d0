"""HTML pages from the templates beside this file: one file each, that loads nothing.

Everything that a template prints is escaped, but what this module marks as ready.
"""

import base64
import io
import json
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

_SIDE = 256  # pixels; larger pictures are shrunk for the page
_FACTORS = (50.0, 30.0, 20.0, 15.0, 10.0, 8.0, 5.0, 4.0, 3.0, 2.0, 1.5, 1.0)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("puretransforms.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["visible"] = visible
    made.filters["pretty"] = lambda value: json.dumps(value, indent=1)
    return made


def page(template: str, **values: Any) -> bytes:
    """The page of ``templates/<template>.html.j2`` as UTF-8; file names that are none come as backslash escapes."""
    return _templates().get_template(f"{template}.html.j2").render(values).encode("utf-8", "backslashreplace")


def visible(value: Any) -> str:
    """Any text on one line, with its line breaks and control characters made visible (a file name may hold some)."""
    return json.dumps(str(value), ensure_ascii=False)[1:-1]


def picture_uri(pixels: np.ndarray) -> str:
    """A uint8 picture ``[H, W, C]`` as the source of an ``img``."""
    picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def signed(change: np.ndarray) -> tuple[np.ndarray, float]:
    """Levels ``[H, W, C]`` of -255 to 255 as a uint8 picture, grey where they are 0, and the factor that it shows.

    The factor is the largest of a few round ones by which no value leaves what a picture holds.
    """
    most = float(np.abs(change).max(initial=0))
    factor = next((factor for factor in _FACTORS if factor * most <= 127.5), 0.5)
    return (127.5 + factor * change).clip(0, 255).round().astype(np.uint8), factor


def chart_uri(svg: str) -> str:
    """A chart as the source of an ``img``, where nothing in it can run or load anything."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
