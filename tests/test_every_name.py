"""One table of names: each registered purifier and poison runs in the shell and in the bench, and stands in the docs.

A new name needs no line here, unless its defaults are too slow for a test, or it needs a row in ``QUICK``.
"""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F
from typer.testing import CliRunner

import puretransforms as pt
from puretransforms.cli.main import app
from puretransforms.poisons.targeted.base import TargetedPoison
from puretransforms.registry import find, parse

ROOT = Path(__file__).parents[1]
FITTED_VAE = 'vae:weights=null:width=4:latent=8:schedule={"epochs":1,"batch_size":4,"magnitude_from":0}'
ADVERSARIAL = "width=4:epochs=1:steps=2"
EM = "width=4:max_rounds=2:train_steps=1:pgd_steps=2"

QUICK = {  # toy sizes, and variants that are fitted first
    "chain": ['chain:steps=["grayscale","jpeg:quality=20"]'],
    "ebm": ["ebm:steps=1"],
    "vae": ["vae", FITTED_VAE],
    "bullseye_polytope": [f"bullseye_polytope:{ADVERSARIAL}"],
    "em_classwise": [f"em_classwise:{EM}:subset=1.0"],
    "em_samplewise": [f"em_samplewise:{EM}"],
    "gradient_matching": [f"gradient_matching:{ADVERSARIAL}:restarts=1"],
    "hypo": [f"hypo:{ADVERSARIAL}"],
    "narcissus": ["narcissus:width=4:epochs=1:rounds=20:lr=0.3"],
    "pil": ["pil:epochs=2:steps=3"],
    "rem": ["rem:on_cpu=true:width=4:train_steps=1:pgd_steps=2:views=1"],
    "sep": [f"sep:{ADVERSARIAL}:checkpoints=1"],
    "tap": [f"tap:{ADVERSARIAL}:restarts=1"],
}
PURIFIERS = [spec for name in pt.list_purifiers() for spec in QUICK.get(name, [name])]
POISONS = [spec for name in pt.list_poisons() for spec in QUICK.get(name, [name])]


def shell(*words: object):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def is_targeted(spec: str) -> bool:
    return issubclass(find(parse(spec)[0], "poison"), TargetedPoison)


def texture(number: int) -> torch.Tensor:
    """A coloured image ``[3, 16, 16]`` that no purifier leaves as it is."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    x = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")[0]
    return (x + 0.1 * torch.randn(3, 16, 16, generator=generator)).clamp(0, 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twenty images in two classes."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(20):
        path = folder / "ab"[number // 10] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        F.to_pil_image(texture(number)).save(path)
    return folder


def bench(folder: Path, *words: str) -> dict[tuple[str, str], dict]:
    """Results of the preset ``tiny`` on toy data, by ``(poison, purifier)``."""
    x = torch.stack([texture(number) for number in range(60)]).mul(255).byte().permute(0, 2, 3, 1).numpy()
    y = np.arange(60) % 3
    np.savez(folder / "toy.npz", x_train=x[:48], y_train=y[:48], x_test=x[48:], y_test=y[48:])
    report = shell("bench", "--preset", "tiny", "--data", folder / "toy.npz", "--out", folder / "bench", *words)
    assert "|" in report
    results = [json.loads(file.read_text())["result"] for file in (folder / "bench" / "results").glob("*.json")]
    return {(result["poison"], result["purifier"]): result for result in results}


def row(spec: str) -> str:
    return f"{spec}:rate=0.2" if is_targeted(spec) else spec


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """One run of the bench with every purifier: one name that fails fails all, and its error names it."""
    folder = tmp_path_factory.mktemp("columns")
    return folder / "bench", bench(folder, "--poisons", "lsp", "--purifiers", ",".join(PURIFIERS))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """One run of the bench with every poison."""
    return bench(tmp_path_factory.mktemp("rows"), "--poisons", ",".join(map(row, POISONS)), "--purifiers", "none")


@pytest.mark.parametrize("spec", PURIFIERS)
def test_a_purifier_is_made_and_cleans(spec, source, tmp_path):
    assert isinstance(pt.create(spec, "purifier"), find(parse(spec)[0], "purifier"))
    said = shell("clean", source, tmp_path / "out", "--with", spec, "--no-progress")
    assert re.search("^20 purified", said, re.MULTILINE)
    before = {path.relative_to(source): path.read_bytes() for path in source.rglob("*.png")}
    after = {path.relative_to(tmp_path / "out"): path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert before.keys() == after.keys()
    changed = sum(before[name] != after[name] for name in before)
    assert changed == 20 or parse(spec)[0] == "auto", "the scan of so few images advises nothing"


@pytest.mark.parametrize("spec", PURIFIERS)
def test_a_purifier_runs_in_the_bench(spec, columns):
    result = columns[1]["lsp", spec]
    assert len(result["test"]) > 0 and all(0 <= accuracy <= 1 for accuracy in result["test"])


@pytest.mark.parametrize("spec", POISONS)
def test_a_poison_is_made_and_poisons_a_folder(spec, source, tmp_path):
    assert isinstance(pt.create(spec, "poison"), find(parse(spec)[0], "poison"))
    words = []
    if is_targeted(spec):
        (tmp_path / "setup.json").write_text(json.dumps({"target_index": 3, "base_class": "b", "bases": 2}))
        words = ["--setup", tmp_path / "setup.json", "--test", source]
    said = shell("poison", source, tmp_path / "out", "--with", spec, "--no-progress", *words)
    assert re.match(r"\d+ of 20 images poisoned\n", said) and not said.startswith("0 ")
    record = json.loads((tmp_path / "out" / "poison.json").read_text())
    assert len(record["files"]) == 20 and record["measured"]["linf_max"] > 0


@pytest.mark.parametrize("spec", POISONS)
def test_a_poison_runs_in_the_bench(spec, rows):
    result = rows[row(spec), "none"]
    aimed = result["kind"] != "availability"
    assert len(result["test"]) > 0 and bool(result["success"]) == aimed


def test_the_leaderboard_shows_what_was_run(columns, tmp_path):
    said = shell("leaderboard", columns[0], "--out", tmp_path / "board.html")
    page = (tmp_path / "board.html").read_text()
    assert f"page in {tmp_path / 'board.html'}" in said
    assert all("lsp" in text and "jpeg" in text for text in (said, page))


@cache
def documented(page: str) -> dict[str, str]:
    """Name to class, as the table of a page says: rows ``| `Class`, `Class` | `name`, `name` | ...``."""
    known: dict[str, str] = {}
    for classes, names in re.findall(r"^\| (`.*?`) \| (`.*?`) \|", (ROOT / "docs" / page).read_text(), re.MULTILINE):
        rows = list(zip(re.findall(r"\w+", names), re.findall(r"\w+", classes), strict=True))
        assert not known.keys() & dict(rows).keys(), f"a name stands twice in {page}"
        known |= rows
    return known


@pytest.mark.parametrize(("page", "role"), [("purifiers.md", "purifier"), ("poisons.md", "poison")])
def test_every_name_has_a_row_in_the_docs(page, role):
    names = pt.list_purifiers() if role == "purifier" else pt.list_poisons()
    assert documented(page) == {name: find(name, role).__name__ for name in names}
