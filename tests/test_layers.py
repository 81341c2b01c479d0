"""What may import what: the contracts of pyproject.toml, ``functional`` beside torch, and the package root."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp", reason="part of import-linter; pip install 'puretransforms[lint]'")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("puretransforms", include_external_packages=True, cache_dir=None)


def test_the_contracts_hold():
    linter = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("needs import-linter")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout.partition("Contracts\n")[2]


def test_functional_imports_torch_alone(graph):
    inside = {"puretransforms.functional", *graph.find_descendants("puretransforms.functional")}
    imported = {name for module in inside for name in graph.find_modules_directly_imported_by(module)}
    outside = {name.partition(".")[0] for name in imported} - {"puretransforms"} - sys.stdlib_module_names
    assert outside == {"torch", "jaxtyping"}  # jaxtyping in the tests only: functional/shapes.py does without


def test_nothing_inside_imports_from_the_package_root_but_its_version(graph):
    lines = {
        detail["line_contents"]
        for importer in graph.find_modules_that_directly_import("puretransforms")
        for detail in graph.get_import_details(importer=importer, imported="puretransforms")
    }
    assert {line.strip() for line in lines} <= {"from .. import __version__"}
