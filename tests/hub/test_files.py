"""Files from anywhere: whatever bytes they hold, they load or end in one of our errors, and run nothing."""

import importlib.util
import json
import pickle
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load, save

from puretransforms.errors import WeightsCorruptedError, WeightsMismatchError
from puretransforms.hub.files import CONFIG, WEIGHTS, parse, sha256_of, write

SCRIPT = Path(__file__).parents[2] / "experiments" / "fuzz_weights.py"


@pytest.fixture
def script(tmp_path, monkeypatch) -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("the scripts of experiments/ are not here")
    spec = importlib.util.spec_from_file_location("fuzz_weights", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


@pytest.mark.parametrize(("seed", "cases"), [(0, 200), pytest.param(1, 2000, marks=pytest.mark.slow)])
def test_mutated_files_load_or_end_in_our_errors_and_run_nothing(script, seed, cases, tmp_path):
    outcomes, noted = script.run(tmp_path, cases, seed)
    assert noted == [] and not (tmp_path / "ran").exists()
    assert outcomes[CONFIG].keys() == {"loaded", "WeightsCorruptedError", "WeightsMismatchError"}
    assert outcomes[WEIGHTS].keys() >= {"loaded", "WeightsCorruptedError"}
    assert outcomes[CONFIG].total() + outcomes[WEIGHTS].total() == cases


def test_the_watch_over_mutated_files_sees_what_it_is_there_for(script, tmp_path):
    watch = script.Watch()
    watch.on = True
    pickle.loads(pickle.dumps(script.Payload()))
    (tmp_path / "written").write_text("")
    eval("1 + 1")
    watch.on = False
    (tmp_path / "later").write_text("")
    seen = [line.split()[0] for line in watch.seen]
    assert {"pickle.find_class", "os.system", "open", "compile", "exec"} == set(seen) and seen.count("open") == 1
    assert (tmp_path / "ran").exists()


def test_writing_is_read_back_and_describes_itself(tmp_path):
    state = {"a": torch.arange(6.0).view(2, 3).half(), "b": torch.ones(2, 3).t()}
    write(tmp_path / "new" / "folder", "Some", {"size": 3}, state)
    folder = tmp_path / "new" / "folder"
    config = json.loads((folder / CONFIG).read_text())
    assert config == {"transform": "Some", "format": 1, "sha256": sha256_of((folder / WEIGHTS).read_bytes()), "size": 3}
    back = parse((folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes(), "here")
    assert back.transform == "Some" and back.config == {"size": 3}
    assert all(torch.equal(back.state[name], tensor) for name, tensor in state.items())
    assert back.state["a"].dtype == torch.float16
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS}
    with pytest.raises(ValueError, match="'format'"):
        write(folder, "Some", {"format": 3}, state)


def test_other_versions_hashes_and_values_are_refused(files):
    config, weights = json.loads(files[CONFIG]), files[WEIGHTS]
    for version in (2, "2", 0):
        with pytest.raises(WeightsMismatchError, match="upgrade puretransforms"):
            parse(json.dumps(config | {"format": version}).encode(), weights, "here")
    with pytest.raises(WeightsCorruptedError, match=r"sha256 0 in here, got [0-9a-f]{64}"):
        parse(json.dumps(config | {"sha256": "0"}).encode(), weights, "here")
    for bad in (float("nan"), float("inf")):
        state = load(weights)
        state["net.head.weight"].view(-1)[0] = bad
        with pytest.raises(WeightsCorruptedError, match=r"NaN or infinity in 'net\.head\.weight'"):
            parse(files[CONFIG], save(state), "here", verify=False)
