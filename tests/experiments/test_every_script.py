"""Every script starts, and says what it is for: a module that has moved is noticed."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "experiments").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_it_imports_from_the_package_is_there(name: str) -> None:
    tree = ast.parse((ROOT / "experiments" / name).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("puretransforms"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_answers_to_help(name: str) -> None:
    if name == "measured.py":
        pytest.skip("shared by the others")
    words = [sys.executable, str(ROOT / "experiments" / name), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0 and len(done.stdout) > 100, done.stderr
