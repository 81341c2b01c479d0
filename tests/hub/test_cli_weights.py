"""``puretransforms weights``: from the loopback Hub and back."""

import json

import pytest
from typer.testing import CliRunner

from puretransforms.cli.main import app
from puretransforms.hub.weights import list_weights

TOKEN = "hf_loopback"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def run(*words: object):
    return CliRunner().invoke(app, ["weights", *(str(word) for word in words)])


def test_list_and_show(entry):
    result = run("list")
    assert result.exit_code == 0 and all(name in result.stdout for name in list_weights())
    result = run("show", "tiny")
    assert (
        f"sha256: {WEIGHTS} {entry.sha256[WEIGHTS]}" in result.stdout and f"revision: {entry.revision}" in result.stdout
    )
    facts = json.loads(run("show", "tiny", "--json").stdout)
    assert facts["license"] == "apache-2.0" and facts["folder"] is None and facts["sha256"] == entry.sha256
    result = run("show", "tyny")
    assert result.exit_code == 1 and "Did you mean 'tiny'?" in result.stderr and "Traceback" not in result.output


def test_download_writes_a_folder_that_loads_without_a_network(hub, entry, tmp_path, monkeypatch):
    result = run("download", "tiny", "--out", tmp_path / "copy")
    assert result.exit_code == 0 and entry.revision in result.stdout
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {CONFIG, WEIGHTS, "README.md"}
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run("verify", tmp_path / "copy").exit_code == 0
    result = run("download", "me/other")
    assert result.exit_code == 1 and "cannot be reached" in result.stderr
    result = run("download", "tiny", "--out", tmp_path / "copy")
    assert result.exit_code == 1 and "new or empty folder" in result.stderr


def test_verify_names_everything_that_differs(hub, entry, files, tmp_path):
    (tmp_path / "bad").mkdir()
    for name, data in files.items():
        (tmp_path / "bad" / name).write_bytes(data[:-1] + b"\1" if name == WEIGHTS else data)
    result = run("verify", "tiny", tmp_path / "bad", "me/none")
    assert result.exit_code == 1 and "ok tiny: EBMPurify me/tiny@" in result.stdout
    assert "damaged or exchanged" in result.stderr and "me/none" in result.stderr
    assert run("verify", "tiny").exit_code == 0


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_push_and_back(hub, files, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "recipe.py").write_text("print('trained')\n")
    (folder / "training.safetensors").write_bytes(b"not for the Hub")
    result = run("push", folder, "me/mine", "--private", "--token", TOKEN)
    assert result.exit_code == 0, result.output
    commit = hub.repos["me/mine"].refs["main"]
    assert f"pin revision={commit}" in result.stdout and hub.repos["me/mine"].access == "private"
    pushed = hub.repos["me/mine"].commits[commit]
    assert {name: data for name, data in pushed.items() if name != ".gitattributes"} == files | {
        "recipe.py": b"print('trained')\n"
    }
    assert run("verify", f"me/mine@{commit}", "--token", TOKEN).exit_code == 0
    assert run("push", folder, "me/mine", "--branch", "v2", "--token", TOKEN).exit_code == 0
    assert hub.repos["me/mine"].refs["v2"] != commit == hub.repos["me/mine"].refs["main"]
    assert run("download", "me/mine@v2", "--token", TOKEN).exit_code == 0


def test_push_refuses_what_would_not_load_and_what_has_no_card(hub, files, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in (CONFIG, WEIGHTS):
        (folder / name).write_bytes(files[name])
    result = run("push", folder, "me/mine", "--token", TOKEN)
    assert result.exit_code == 1 and "expected a README.md" in result.stderr
    (folder / WEIGHTS).write_bytes(files[WEIGHTS][:-4])
    result = run("push", folder, "me/mine", "--token", TOKEN)
    assert result.exit_code == 1 and "damaged or exchanged" in result.stderr and "me/mine" not in hub.repos


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("named", [True, False])
def test_what_was_downloaded_can_be_pushed(hub, entry, files, tmp_path, named):
    """From a name or a repo to a folder, and from there to another repo: config, weights and card stay the same."""
    source = "tiny" if named else f"me/tiny@{entry.revision}"
    assert run("download", source, "--out", tmp_path / "copy").exit_code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == files
    result = run("push", tmp_path / "copy", "me/again", "--token", TOKEN)
    assert result.exit_code == 0, result.output
    pushed = hub.repos["me/again"].commits[hub.repos["me/again"].refs["main"]]
    assert {name: pushed[name] for name in files} == files
    assert run("push", source, "me/straight", "--token", TOKEN).exit_code == 0


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_bundled_weights_are_downloaded_with_all_that_lies_beside_them(hub, tmp_path):
    assert run("download", "ebm-small-32", "--out", tmp_path / "copy").exit_code == 0
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {CONFIG, WEIGHTS, "README.md", "recipe.py", "metrics.json", "meta.json"}
    assert run("push", tmp_path / "copy", "me/ebm", "--token", TOKEN).exit_code == 0
    assert hub.repos["me/ebm"].commits[hub.repos["me/ebm"].refs["main"]].keys() >= names


def test_a_repo_without_card_gives_the_registered_one(hub, entry, files, tmp_path):
    commit = hub.repo("me/bare", {name: files[name] for name in (CONFIG, WEIGHTS)})
    assert run("download", f"me/bare@{commit}", "--out", tmp_path / "copy").exit_code == 0
    assert "random numbers" in (tmp_path / "copy" / "README.md").read_text()
