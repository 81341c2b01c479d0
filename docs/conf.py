"""How the site is built: ``make docs``. Why Sphinx: see the group ``docs`` in pyproject.toml."""

import inspect
import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util.inspect import stringify_signature

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import puretransforms  # noqa: E402

project = "puretransforms"
author = "The puretransforms maintainers"
copyright = f"{author}, Apache-2.0"
version = release = puretransforms.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autosummary_ignore_module_all = False
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "puretransforms"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"light_css_variables": {"font-stack": "system-ui, sans-serif"}}
html_math_renderer = "mathml"
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_prompt_text = r"^\$ |^>>> |^\.\.\. "
copybutton_prompt_is_regexp = True


def _inline(self, node):
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(self, node):
    self.body.append(f'<div class="equation">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _signature(app, what, name, obj, options, signature, returns):
    """The arguments of ``__init__``: a ``__new__`` of a base class, which takes anything, stands before it."""
    if what == "class" and "__init__" in dir(obj) and str(signature).startswith("(*"):
        signature = stringify_signature(inspect.signature(obj.__init__, eval_str=False), unqualified_typehints=True)
        return re.sub(r"^\(self,? ?", "(", signature).removesuffix(" -> None"), None
    return None


def setup(app):
    app.connect("autodoc-process-signature", _signature)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
