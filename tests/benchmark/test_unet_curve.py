"""The script that draws the curve of the U-Net: gains of known purifiers, and a picture of all panels."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest
import torch

from puretransforms.functional.random import KeyedNoise
from puretransforms.models.unet import PurifierUNet

SCRIPT = Path(__file__).parents[2] / "experiments" / "unet_curve.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("the scripts of experiments/ are not here")
    spec = importlib.util.spec_from_file_location("unet_curve", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def versions() -> dict[str, torch.Tensor]:
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    noise = 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return {"clean": x, "one": x + noise, "two": x + 0.05}


def test_gains_of_purifiers_that_are_known(script, versions):
    as_it_is = script.row(versions, lambda x: x)
    assert as_it_is["one"] == as_it_is["two"] == 1 and as_it_is["psnr"] > 100
    half = script.row(versions, lambda x: x / 2)
    assert half["one"] == half["two"] == 0.5
    assert script.row(versions, torch.zeros_like)["one"] == 0
    assert as_it_is["two_psnr"] == pytest.approx(26.02, abs=0.01)  # -20 log10(0.05)


def test_strengths_are_in_levels(script, versions):
    told = []
    net = PurifierUNet(16, 16, (0, 1, 1))
    net.register_forward_pre_hook(lambda net, args: told.append(args[1]))
    assert torch.equal(script.at_strength(net, 16, 75)(versions["clean"]), versions["clean"])
    torch.testing.assert_close(told[0][0] * 255, torch.tensor([16.0, 75.0]))


def test_one_pixel_is_that_of_its_class(script, versions):
    x = versions["clean"]
    changed = (script.one_pixel(x, KeyedNoise(0, torch.tensor([0, 0, 1, 1, 2, 2]))) != x).any(1)
    assert changed.flatten(1).sum(1).tolist() == [1] * 6
    assert torch.equal(changed[0], changed[1]) and not torch.equal(changed[0], changed[2])


def test_the_picture_has_a_panel_for_each_poison_and_a_mark_for_each_purifier(script, versions):
    rows = [{"purifier": "UNet", "luma": s, "chroma": c, **script.row(versions, lambda x, s=s: x * (1 - s / 200))}
            for s, c in ((8, 8), (16, 16), (16, 75))]  # fmt: skip
    rows.append({"purifier": "JPEG", "quality": 10, **script.row(versions, lambda x: x * 0.9)})
    texts = [element.text for element in ET.fromstring(script.svg(rows)).iter() if element.text]
    for name in ("one", "two", "UNet", "UNet, luma and chroma apart", "JPEG"):
        assert name in texts
    assert len(script.table(rows).splitlines()) == 2 + len(rows)
