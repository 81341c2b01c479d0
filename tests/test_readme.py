"""Every code block of the README, CONTRIBUTING and the pages under docs/ runs, in order, page by page."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import functional as F
from typer.testing import CliRunner

from puretransforms import registry
from puretransforms.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

FILE = re.compile(r"# (\w+\.py)\n")  # a block that is to be saved says so in its first line


@pytest.fixture
def somewhere(tmp_path, monkeypatch, photo):
    """A working folder with ``data/train`` in it, three classes of four photographs each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # so that the shell adds this folder
    monkeypatch.setattr(registry, "_CLASSES", {role: dict(known) for role, known in registry._CLASSES.items()})
    for label, name in enumerate(("cat", "dog", "frog")):
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for i in range(4):
            F.to_pil_image(photo.roll((4 * i, 9 * label), (1, 2))).save(folder / f"{i}.png")
    sys.modules.pop("mine", None)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_blocks_run(page, somewhere):
    blocks = FENCE.findall((ROOT / page).read_text())
    names = {"__name__": "__readme__"}
    torch.manual_seed(0)
    for language, text in blocks:
        if language == "python":
            name = FILE.match(text)
            if name:
                Path(name[1]).write_text(text)  # a later command imports it
            exec(compile(text, page, "exec"), names)
            continue
        for line in text.splitlines():
            command = shlex.split(line.removeprefix("$ "), comments=True)
            if command[:1] == ["puretransforms"]:
                result = CliRunner().invoke(app, command[1:], catch_exceptions=False)
                assert result.exit_code == 0, result.output


def test_the_readme_shows_something():
    assert len(FENCE.findall((ROOT / "README.md").read_text())) >= 3
