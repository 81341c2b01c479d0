"""Registry, folder, hashes and card of every registered name say the same, and the wheel carries the folder."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from puretransforms.cli.main import app
from puretransforms.errors import WeightsCorruptedError, WeightsUnavailableError
from puretransforms.hub import registry
from puretransforms.hub.card import card_of
from puretransforms.hub.files import sha256_of
from puretransforms.hub.load import load
from puretransforms.hub.registry import PurifierWeights, get_weights, list_weights
from puretransforms.transforms.base import PureTransform

ROOT = Path(__file__).parents[2]
FILES = ("config.json", "model.safetensors", "README.md", "recipe.py")


def test_there_are_names_and_wrong_ones_are_told_the_right_one():
    assert "ebm-small-32" in list_weights() and list_weights() == sorted(list_weights())
    with pytest.raises(WeightsUnavailableError, match="Did you mean 'ebm-small-32'"):
        get_weights("ebm-smal-32")


@pytest.mark.parametrize("name", list_weights())
def test_registry_folder_hashes_and_card_are_equal(name):
    entry = get_weights(name)
    folder = ROOT / "weights" / name
    assert entry.name == name and entry.folder() == folder
    assert {file: sha256_of((folder / file).read_bytes()) for file in entry.sha256} == entry.sha256
    assert set(entry.sha256) == {"config.json", "model.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    assert config["transform"] == entry.transform and config["sha256"] == entry.sha256["model.safetensors"]
    card = ModelCard((folder / "README.md").read_text())
    assert str(card) == card_of(entry), f"write the card of {name} again"
    assert card.data.library_name == "puretransforms" and card.data.license == entry.license
    assert card.data.pipeline_tag == "image-to-image" and "data-purification" in card.data.tags
    assert card.data.datasets == list(entry.datasets) and entry.training_data in card.text
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == entry.metrics
    assert all(result.dataset_type and result.dataset_name for result in card.data.eval_results)
    assert entry.repo_id.split("/")[1] == name and entry.license == "apache-2.0"
    assert entry.revision is None or len(entry.revision) == 40
    measured = json.loads((folder / "metrics.json").read_text())
    for value in entry.metrics.values():
        assert value in numbers(measured)


@pytest.mark.parametrize("name", list_weights())
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_what_is_pushed_is_the_folder_and_comes_back_pinned(hub, name, monkeypatch):
    entry = get_weights(name)
    result = CliRunner().invoke(app, ["weights", "push", name, f"me/{name}", "--token", "hf_loopback"])
    assert result.exit_code == 0, result.output
    commit = hub.repos[f"me/{name}"].refs["main"]
    pushed = {file: data for file, data in hub.repos[f"me/{name}"].commits[commit].items() if file != ".gitattributes"}
    assert pushed == {file: (entry.folder() / file).read_bytes() for file in (*FILES, "metrics.json")}
    monkeypatch.setitem(registry._ENTRIES, name, replace(entry, repo_id=f"me/{name}", revision=commit))
    monkeypatch.setattr(PurifierWeights, "folder", lambda _: None)  # as where the package does not carry it
    again = load(name)
    assert again.label == f"me/{name}@{commit[:12]}" and again.sha256 == entry.sha256["model.safetensors"]


def numbers(record: object) -> list[float]:
    parts = record.values() if isinstance(record, dict) else record if isinstance(record, list) else ()
    return [record] if isinstance(record, int | float) else [number for part in parts for number in numbers(part)]


@pytest.mark.parametrize("name", list_weights())
def test_bundled_weights_load_and_purify_without_a_network(name, photo):
    entry = get_weights(name)
    t = PureTransform.from_pretrained(name, seed=0)
    photo = ((photo.float() + photo.float().mean(0)) / 2).round().to(torch.uint8)  # colours as photographs have them
    assert type(t).__name__ == entry.transform and t.pretrained == f"{name}@{entry.sha256['model.safetensors'][:12]}"
    assert PureTransform.from_pretrained(entry.repo_id).pretrained == t.pretrained, "by its repo: the same, pinned"
    out = t(photo)
    assert out.shape == photo.shape and out.dtype == photo.dtype and not torch.equal(out, photo)
    assert (out.float() - photo.float()).abs().mean() < 20  # it is still that photo


@pytest.mark.parametrize("name", list_weights())
def test_the_wheel_carries_exactly_these_files(name):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    carried = {path for path in wheel["force-include"] if path.startswith(f"weights/{name}/")}
    assert carried >= {f"weights/{name}/{file}" for file in FILES}
    assert all(wheel["force-include"][path] == f"puretransforms/{path}" for path in carried)
    assert not any("training." in path for path in carried)


def test_a_damaged_bundled_file_is_refused(monkeypatch, tmp_path):
    entry = get_weights("ebm-small-32")
    folder = tmp_path / "weights" / entry.name
    folder.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((entry.folder() / file).read_bytes())
    monkeypatch.setattr("puretransforms.hub.registry._PACKAGE", tmp_path)
    assert load("ebm-small-32").sha256 == entry.sha256["model.safetensors"]
    for file in ("model.safetensors", "config.json"):
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data.replace(data[-9:-8], bytes([data[-9] ^ 1]), 1))
        with pytest.raises(WeightsCorruptedError, match=rf"expected {file} of ebm.*install the package again"):
            load("ebm-small-32")
        (folder / file).write_bytes(data)
