"""The script that judges energies: its chain is the purifier's, its verdicts can fail, and every weight file passes."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest
import torch

from puretransforms.functional.random import KeyedNoise
from puretransforms.transforms.ebm import EBMPurify

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "ebm_curves.py"
FOLDERS = sorted(path.parent for path in (ROOT / "weights").glob("ebm-*/model.safetensors"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("the scripts of experiments/ are not here")
    spec = importlib.util.spec_from_file_location("ebm_curves", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_chain_is_that_of_the_purifier(script):
    t = EBMPurify(weights=None, nf=8, steps=3, temperature=2e-4, precision="fp32")
    versions = {"clean": torch.rand(70, 3, 8, 8), "other": torch.rand(70, 3, 8, 8)}
    _, (steps, purified, drift) = script.chain(t, versions, (1, 3), t.temperature, torch.float32)
    noise = KeyedNoise(0, torch.arange(70))
    assert steps == 3 and drift > 0
    for name, x in versions.items():
        assert torch.allclose(purified[name], t.purify(x, noise), rtol=0, atol=1e-6)


def test_gain_and_distances_of_a_purifier_that_is_known(script):
    x = torch.full((2, 3, 8, 8), 0.5)
    d = torch.full((1, 3, 8, 8), 0.1)
    halved = {"clean": x + 0.01, "tap": x + 0.01 + d / 2}
    found = script.row({"clean": x, "tap": x + d}, halved)
    assert found == {"psnr": pytest.approx(40, abs=1e-3), "tap": pytest.approx(0.5, abs=1e-4)}
    found = script.distances({"clean": x, "tap": x + d}, {"clean": x, "tap": x + d / 4})
    unit = 2 * 0.1 * (3 * 64) ** 0.5
    assert found["tap_to_clean"] == pytest.approx(unit / 4, rel=1e-3)
    assert found["tap_to_poisoned"] == pytest.approx(unit * 3 / 4, rel=1e-3)


@pytest.mark.parametrize("good", [True, False])
def test_verdicts_pass_and_fail(script, good):
    poisons = ("tap", "lsp", "smooth_trigger")
    rows = []
    for steps in (25, 50, 300):
        rows.append({"purifier": "EBM", "steps": steps, "psnr": 25.0, "drift": 0.1 if good or steps < 300 else 0.3})
        for poison in poisons:
            rows[-1] |= {poison: 0.2 if good else 0.4, f"{poison}_to_clean": 1.0}
            rows[-1] |= {f"{poison}_to_poisoned": 1.1 if good and steps > 25 else 0.9}
    for rival in ("JPEG", "Gaussian blur"):
        rows += [{"purifier": rival, "psnr": psnr} | dict.fromkeys(poisons, psnr / 100) for psnr in (20.0, 40.0)]
    error = {"share_of_path": 0.01 if good else 0.03}
    found = script.acceptance(rows, dict.fromkeys(poisons, 0.6 if good else 0.4), error, steps=50)
    verdicts = [found["drift"], found["bf16"]] + [check for poison in poisons for check in found[poison].values()]
    assert len(verdicts) == 14 and {check["passes"] for check in verdicts} == {good}
    assert found["tap"]["crossing"]["steps"] == (50 if good else None)
    assert found["tap"]["below_jpeg"]["JPEG"] == pytest.approx(0.25)
    assert script.at_psnr(rows[-2:], "tap", 41.0) is None


def test_the_plot_is_well_formed(script):
    names = [f"curve {i}" for i in range(6)]
    row = {"steps": 50, "tap_to_clean": 1.0} | dict.fromkeys(("tap", "lsp", "smooth_trigger"), 0.5)
    rows = [{"purifier": name, "psnr": psnr} | row for name in names for psnr in (20.0, 30.0)]
    picture = ET.fromstring(script.svg(rows, 50))
    assert len(picture.findall(".//{*}polyline")) == 18
    assert all(name in {text.text for text in picture.findall(".//{*}text")} for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_weight_file_passes_its_acceptance_tests(script, real_data, folder):
    purifier, versions = EBMPurify.from_pretrained(folder), script.load(real_data, 64)
    rows = script.ebm_rows(purifier, versions) + script.other_rows(versions, purifier.step_size)
    error = script.precision_error(purifier, versions["clean"][:32], purifier.steps)
    found = script.acceptance(rows, script.auroc(purifier, versions), error, purifier.steps)
    checks = {"drift": found["drift"], "bf16": found["bf16"]}
    for poison in ("tap", "lsp", "smooth_trigger"):
        checks |= {f"{poison} {name}": check for name, check in found[poison].items()}
    assert {name: check for name, check in checks.items() if not check["passes"]} == {}
