"""meta.json, folder, hashes and card of every name say the same; a new folder is a new name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from puretransforms.cli.main import app
from puretransforms.errors import WeightsCorruptedError, WeightsUnavailableError
from puretransforms.hub import weights
from puretransforms.hub.files import sha256_of
from puretransforms.hub.load import load
from puretransforms.hub.weights import PurifierWeights, card_of, get_weights, list_weights, read_meta, write_cards
from puretransforms.transforms.base import PureTransform

ROOT = Path(__file__).parents[2]
FILES = ("config.json", "model.safetensors", "README.md", "recipe.py", "metrics.json", "meta.json")


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
    assert str(card) == card_of(entry), f"the card of {name} is not that of its meta.json: make cards"
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
    assert pushed == {file: (entry.folder() / file).read_bytes() for file in FILES}
    monkeypatch.setitem(weights._entries(), name, replace(entry, repo_id=f"me/{name}", revision=commit))
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


@pytest.fixture
def package(monkeypatch, tmp_path) -> Path:
    """A package folder whose ``weights`` hold one copy, named ``mine``."""
    monkeypatch.setattr("puretransforms.hub.weights._PACKAGE", tmp_path / "package")
    shutil.copytree(ROOT / "weights" / "ebm-small-32", tmp_path / "package" / "weights" / "mine")
    weights._entries.cache_clear()
    yield tmp_path / "package"
    weights._entries.cache_clear()


def test_a_new_folder_is_a_new_name_without_code(package):
    assert list_weights() == ["mine"] and get_weights("mine").folder() == package / "weights" / "mine"
    assert PureTransform.from_pretrained("mine").pretrained.startswith("mine@")
    meta = package / "weights" / "mine" / "meta.json"
    facts = json.loads(meta.read_text())
    meta.write_text(json.dumps(facts | {"summary": "Mine."}))
    weights._entries.cache_clear()
    assert write_cards() == [package / "weights" / "mine" / "README.md"]
    assert "Mine." in write_cards()[0].read_text() and "puretransforms/ebm-small-32" in write_cards()[0].read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "is not JSON"),
        ([], "expected a JSON object"),
        ({"license": ...}, "expected license in .*lacks it"),
        ({"licence": "mit"}, "sets licence, which is no fact"),
        ({"name": "other"}, "sets name, which is no fact"),
        ({"sha256": {"config.json": "0"}}, "expected sha256 of config.json and model.safetensors"),
        ({"sizes": [16]}, "two whole numbers"),
    ],
)
def test_wrong_facts_are_refused(tmp_path, change, message):
    meta = tmp_path / "mine" / "meta.json"
    meta.parent.mkdir()
    facts = json.loads((ROOT / "weights" / "ebm-small-32" / "meta.json").read_text())
    changed = {key: value for key, value in (facts | (change or {})).items() if value is not ...} if change else change
    meta.write_text("{" if change is None else json.dumps(changed))
    with pytest.raises(WeightsCorruptedError, match=message):
        read_meta(meta)


def test_a_damaged_bundled_file_is_refused(monkeypatch, tmp_path):
    entry = get_weights("ebm-small-32")
    folder = tmp_path / "weights" / entry.name
    folder.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((entry.folder() / file).read_bytes())
    monkeypatch.setattr("puretransforms.hub.weights._PACKAGE", tmp_path)
    assert load("ebm-small-32").sha256 == entry.sha256["model.safetensors"]
    for file in ("model.safetensors", "config.json"):
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data.replace(data[-9:-8], bytes([data[-9] ^ 1]), 1))
        with pytest.raises(WeightsCorruptedError, match=rf"expected {file} of ebm.*install the package again"):
            load("ebm-small-32")
        (folder / file).write_bytes(data)
