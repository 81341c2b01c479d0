"""What stands around the code agrees with it: versions, workflows, dependency groups, forms."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import puretransforms
from puretransforms.cli.main import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
YAML = [ROOT / "CITATION.cff", *sorted((ROOT / ".github").rglob("*.yml"))]


def test_one_version_everywhere():
    version = puretransforms.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = re.search(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == version


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_forms_and_workflows_can_be_read(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_workflows_ask_for_what_there_is():
    text = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    text += (ROOT / "Makefile").read_text()
    assert set(re.findall(r"--group (\w+)", text)) <= set(PROJECT["dependency-groups"])
    for extras in re.findall(r"'\.\[([\w,]+)\]'", text):
        assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_oldest_versions_are_tested():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    for package in ("torch", "torchvision"):
        (oldest,) = re.findall(rf"'{package}>=([\d.]+)'", str(PROJECT["project"]["dependencies"]))
        assert f" {package}=={oldest}.*" in text.replace('"', " ")
    assert f'python: "{PROJECT["project"]["requires-python"].removeprefix(">=")}"' in text


def test_every_requirement_is_imported():
    """A package that nothing imports is not required."""
    imported = set()
    for path in (ROOT / "puretransforms").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    required = {re.split(r"[^\w]", one)[0].lower() for one in PROJECT["project"]["dependencies"]}
    assert {{"pillow": "PIL"}.get(name, name) for name in required} <= imported


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands(shell):
    words = {"COMP_WORDS": "puretransforms sc", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "puretransforms sc"}
    asked = {"_PURETRANSFORMS_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    said = CliRunner().invoke(app, [], env={**words, **asked}, prog_name="puretransforms").output
    assert "scan" in said and "verify" not in said
