"""A type checker of a user's own sees the signatures of the package."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_argument_written_wrongly_is_an_error_of_the_type_checker(tmp_path):
    pytest.importorskip("mypy", reason="part of the lint extra; pip install mypy")
    assert (ROOT / "puretransforms" / "py.typed").is_file()
    lines = ("from puretransforms import EBMPurify", "EBMPurify(steps=3)", "EBMPurify(stesp=3)")
    (tmp_path / "three.py").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", tmp_path / "three.py"]
    done = subprocess.run(command, cwd=ROOT, env={"MYPYPATH": str(ROOT)}, capture_output=True, text=True, timeout=900)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1 and "three.py:3:" in errors[0] and "[call-arg]" in errors[0], done.stdout + done.stderr
    assert 'did you mean "steps"?' in errors[0]
