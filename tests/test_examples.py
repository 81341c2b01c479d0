"""Every example runs, what it hands to training was purified, and the page about pipelines shows what runs here."""

import importlib.util
import re
import runpy
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from puretransforms import COINInterpolate

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
QUICK = ["torchvision_dataset", "collate", "gpu_loader", "kornia_after_batch", "hugging_face"]
SLOW = {"lightning_module": "lightning", "hugging_face_trainer": "transformers", "timm_loader": "timm"}
EXCERPT = re.compile(r"^`examples/(\w+)\.py`(.*?)^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, photo, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(6):
            F.to_pil_image(photo.roll((4 * i, 9 * label), (1, 2))).save(tmp_path / "train" / name / f"{i}.png")
    return tmp_path / "train"


def run(name, folder):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main(str(folder))


def check(name, folder, monkeypatch):
    """With a purifier that paints all images in one colour, also in forked workers, every channel is flat at the end,
    but for the frame that a crop may add."""
    monkeypatch.setattr(COINInterpolate, "_purify_batch", lambda self, pixels, *_: torch.full_like(pixels, 0.5))
    result = run(name, folder)
    if name == "hugging_face":
        result = torch.stack([F.pil_to_tensor(image) for image in result])
    else:
        assert result.shape == (8, 3, 32, 32)
    assert max(len(channel.unique()) for image in result for channel in image) <= 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", QUICK)
def test_examples_of_the_core(name, folder, monkeypatch):
    check(name, folder, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SLOW)
def test_examples_of_large_libraries(name, folder, monkeypatch):
    pytest.importorskip(SLOW[name])
    check(name, folder, monkeypatch)


def test_an_example_is_a_script_too_and_changes_the_images(folder, photo, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hugging_face.py", str(folder)])
    names = runpy.run_path(str(EXAMPLES / "hugging_face.py"), run_name="__main__")
    assert "PIL" in capsys.readouterr().out
    for image in names["main"](str(folder)):
        assert np.asarray(image).std() > 10
        assert not np.array_equal(np.asarray(image), photo.permute(1, 2, 0).numpy())


def test_the_page_shows_every_example_word_for_word_and_where_it_is_run():
    page = (ROOT / "docs/pipelines.md").read_text()
    shown = EXCERPT.findall(page)
    assert page.count("```py\n") == len(shown)
    assert {name for name, _, _ in shown} == {path.stem for path in EXAMPLES.glob("*.py")} == {*QUICK, *SLOW}
    for name, said, excerpt in shown:
        assert excerpt in textwrap.dedent((EXAMPLES / f"{name}.py").read_text()) or any(
            textwrap.indent(excerpt, " " * depth) in (EXAMPLES / f"{name}.py").read_text() for depth in (4, 8)
        ), f"the excerpt of {name} is not in it"
        assert ("make test-slow" if name in SLOW else "make test`") in said
