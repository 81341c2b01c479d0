"""Names for purifiers and poisons: the one table, its grammar, and what other packages add to it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F
from typer.testing import CliRunner

import puretransforms as pt
from puretransforms import registry
from puretransforms.cli.main import app
from puretransforms.errors import RegistryError
from puretransforms.transforms.baselines import JPEGCompress

ROOT = Path(__file__).parents[1]


class Toy(pt.PureTransform):
    """Leaves images as they are."""

    def __init__(self, strength: float = 1.0, *, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self.strength = strength


@pytest.fixture
def registered(monkeypatch):
    """Names that a test registers are forgotten after it."""
    for role, table in registry._CLASSES.items():
        monkeypatch.setitem(registry._CLASSES, role, dict(table))


def test_every_name_has_a_class_of_its_role_and_a_line():
    for role, names in (("purifier", pt.list_purifiers()), ("poison", pt.list_poisons())):
        assert names == sorted(set(names)) and len(names) > 8
        for name in names:
            cls = registry.find(name, role)
            assert cls.role == role and registry.name_of(cls) == name
            line = registry.summary(name, role)
            assert line.endswith(".") or line.endswith("``.") or ":" in line, f"{name}: {line}"
            assert 10 < len(line) <= 120 and "\n" not in line


def test_no_name_is_both_a_purifier_and_a_poison():
    assert not set(pt.list_purifiers()) & set(pt.list_poisons())


def test_register(registered):
    assert pt.register("toy")(Toy) is Toy and pt.register("toy")(Toy) is Toy
    assert "toy" in pt.list_purifiers() and registry.find("toy") is Toy and registry.name_of(Toy) == "toy"
    assert registry.summary("toy") == "Leaves images as they are."
    with pytest.raises(RegistryError, match="'jpeg', which is taken"):
        pt.register("jpeg")(Toy)
    with pytest.raises(RegistryError, match="expected a purifier or a poison to register as 'path', got Path"):
        pt.register("path")(Path)
    assert registry.name_of(Path) is None


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("jpeg", ("jpeg", {})),
        ("jpeg:quality=10", ("jpeg", {"quality": 10})),
        ("a:x=1.5:y=true:z=null:t=[1,2]", ("a", {"x": 1.5, "y": True, "z": None, "t": [1, 2]})),
        ('vae:schedule={"epochs":1,"batch_size":4}', ("vae", {"schedule": {"epochs": 1, "batch_size": 4}})),
        (
            'chain:steps=["jpeg:quality=10","grayscale:p=0.5"]:p=0.5',
            ("chain", {"steps": ["jpeg:quality=10", "grayscale:p=0.5"], "p": 0.5}),
        ),
        ('a:text="b:c=d":x=1', ("a", {"text": "b:c=d", "x": 1})),
        ("a:x=1e-3:y=10b:z=-2", ("a", {"x": 1e-3, "y": "10b", "z": -2})),
        ("ebm:weights=/a:b/c", ("ebm", {"weights": "/a:b/c"})),
        ("a:text=b=c", ("a", {"text": "b=c"})),
        ("a:text=", ("a", {"text": ""})),
        ("a:x=True:y=False:z=None:t=Truer", ("a", {"x": True, "y": False, "z": None, "t": "Truer"})),
        ("package.module:Class", ("package.module:Class", {})),
        ("package.module:Class:x=1", ("package.module:Class", {"x": 1})),
    ],
)
def test_the_grammar(spec, parsed):
    assert registry.parse(spec) == parsed


@pytest.mark.parametrize("spec", ["", ":x=1", "a:", ":Class", "a:b c", "a:1x=2"])
def test_refuses_what_is_no_spec(spec):
    with pytest.raises(RegistryError, match="expected name:option=value or module:Class"):
        registry.parse(spec)


def test_create():
    assert pt.create("unet:weights=None:jitter=True").jitter is True
    assert pt.create("jpeg:quality=10").quality == 10
    assert pt.create("jpeg:quality=10", quality=30, seed=3).quality == 10, "what the text says wins"
    assert pt.create("jpeg", quality=30).quality == 30
    made = pt.create("puretransforms.transforms.baselines:JPEGCompress:quality=20", "purifier")
    assert type(made) is JPEGCompress and made.quality == 20


@pytest.mark.parametrize(
    ("spec", "role", "message"),
    [
        ("jpg", None, "Did you mean 'jpeg'"),
        ("bleach", "purifier", "expected a purifier among auto, bitdepth, .*, got 'bleach'"),
        ("jpeg", "poison", "expected a poison, got 'jpeg': jpeg is a purifier: use it with puretransforms clean"),
        ("cuda", "purifier", "expected a purifier, got 'cuda': cuda is a poison: use it with puretransforms poison"),
        ("jpeg=10", None, "Did you mean 'jpeg:quality=10'"),
        ("coin=2", "purifier", "Did you mean 'coin:alpha=2'"),
        ("jpeg:qualty=1", None, "did you mean quality"),
        ("jpeg:quality=1000", None, "'jpeg:quality=1000' makes no JPEGCompress: .*quality"),
        ("jpeg:quality=high", None, "quality"),
        ("jpeg:quality", None, "expected options as jpeg:option=value, got 'jpeg:quality'"),
        ("nowhere.at.all:Class", None, "importable module:Class, got 'nowhere.at.all:Class'"),
        ("json:Nothing", None, "importable module:Class, got 'json:Nothing'"),
        ("json:loads", None, "expected the class of a purifier or poison at 'json:loads'"),
        ("puretransforms.transforms.baselines:JPEGCompress", "poison", "expected the class of a poison"),
    ],
)
def test_refusals_name_the_fix(spec, role, message):
    with pytest.raises(RegistryError, match=message):
        pt.create(spec, role)


# --- what other packages add ------------------------------------------------------------------------------------------

ACID = '''
"""A package that knows a purifier and a poison."""

import torch

from puretransforms import PureTransform
from puretransforms.poisons.base import Poison


class Acid(PureTransform):
    """Darken every image by a share."""

    def __init__(self, share=0.5, *, seed=None, device=None, images="first", chunk_size="auto", differentiable=False,
                 p=1.0):
        super().__init__(seed=seed, device=device, images=images, chunk_size=chunk_size,
                         differentiable=differentiable, p=p)
        self.share = share

    def purify(self, x, noise, labels=None):
        return x * (1 - self.share)


class Salt(Poison):
    """Paint the corner of each class in a grey of its own."""

    def perturb(self, x, labels, noise):
        out = x.clone()
        out[:, :, :2, :2] = (labels / self.num_classes).to(x.dtype)[:, None, None, None]
        return out
'''
POINTS = """[puretransforms.purifiers]
acid = acid:Acid
{more_purifiers}
[puretransforms.poisons]
salt = acid:Salt
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``package(more_purifiers="")``: the folder of an installed distribution, as pip lays it out, which is found."""

    def install(more_purifiers: str = "") -> Path:
        folder = tmp_path / "site"
        about = folder / "acid-1.0.dist-info"
        about.mkdir(parents=True)
        (folder / "acid.py").write_text(ACID)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acid\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(POINTS.format(more_purifiers=more_purifiers))
        monkeypatch.syspath_prepend(folder)
        registry._entry_points.cache_clear()
        return folder

    yield install
    registry._entry_points.cache_clear()
    sys.modules.pop("acid", None)


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def source(tmp_path, photo):
    for label, name in enumerate("ab"):
        (tmp_path / "source" / name).mkdir(parents=True)
        for i in range(10):
            F.to_pil_image(photo.roll((i, 9 * label), (1, 2))).save(tmp_path / "source" / name / f"{i}.png")
    return tmp_path / "source"


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(image).astype(int) for image, _ in ImageFolder(str(folder))])


def test_another_package_adds_a_purifier_and_a_poison(package, source, tmp_path):
    package()
    known = json.loads(run("list", "--json").stdout)
    assert {"name": "acid", "summary": "Darken every image by a share."}.items() <= known["purifiers"][0].items()
    assert "salt" in [row["name"] for row in known["poisons"]]
    result = run("poison", source, tmp_path / "poisoned", "--with", "salt")
    assert result.exit_code == 0, result.output
    corners = pixels(tmp_path / "poisoned")[:, :2, :2]
    assert (corners[:10] == 0).all() and (corners[10:] == 128).all()
    steps = ("--with", "acid:share=0.5", "--with", "acid")
    result = run("clean", tmp_path / "poisoned", tmp_path / "dark", *steps, "--no-progress")
    assert result.exit_code == 0, result.output
    assert np.abs(pixels(tmp_path / "dark") - pixels(tmp_path / "poisoned") / 4).max() <= 0.5


def test_they_run_in_clean_and_bench_from_the_shell(package, source, tmp_path):
    """As a user has them: a fresh interpreter, the package on its path, nothing imported by hand."""
    folder = package()
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "toy.npz", x_train=x[:48], y_train=y[:48], x_test=x[48:], y_test=y[48:])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "OMP_NUM_THREADS": "1"}

    def shell(*words: str) -> str:
        command = [sys.executable, "-m", "puretransforms", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shell("clean", "source", "dark", "--with", "acid:share=0.75", "--no-progress")
    assert np.abs(pixels(tmp_path / "dark") - pixels(source) / 4).max() <= 0.5
    words = ("--preset", "tiny", "--data", "toy.npz", "--poisons", "salt", "--purifiers", "acid:share=0.25")
    report = shell("bench", "--out", "bench", *words, "--threads", "1")
    assert "salt" in report and "acid" in report
    results = [json.loads(file.read_text())["result"] for file in (tmp_path / "bench" / "results").iterdir()]
    cases = {(result["poison"], result["purifier"]) for result in results}
    assert cases == {(poison, purifier) for poison in ("clean", "salt") for purifier in ("none", "acid:share=0.25")}


def test_module_and_class_need_no_installation(source, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(ACID)  # in the working folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    result = run("clean", source, tmp_path / "dark", "--with", "mine:Acid:share=0.5", "--no-progress")
    assert result.exit_code == 0, result.output
    assert np.abs(pixels(tmp_path / "dark") - pixels(source) / 2).max() <= 0.5
    result = run("poison", source, tmp_path / "salted", "--with", "mine:Salt")
    assert result.exit_code == 0, result.output
    assert (pixels(tmp_path / "salted")[:10, :2, :2] == 0).all()


def test_a_broken_package_breaks_its_own_names_alone(package):
    package("broken = acid.nothing:Class\nwrong = acid:Salt")
    listed = run("list").stdout.splitlines()
    assert any(line.split()[:4] == ["broken", "cannot", "be", "loaded:"] for line in listed)
    assert any(line.split()[:1] == ["jpeg"] for line in listed) and type(pt.create("acid")).__name__ == "Acid"
    for name, reason in (("broken", "No module named"), ("wrong", "expected the class of a purifier at acid:Salt")):
        with pytest.raises(RegistryError, match=f"{reason}.*repair or uninstall that package"):
            pt.create(name)


def test_a_name_that_is_taken_is_not_given_away(package):
    package("jpeg = acid:Acid")
    with pytest.warns(UserWarning, match="'jpeg' of an installed package, acid:Acid, is not used"):
        assert type(pt.create("jpeg")) is JPEGCompress
