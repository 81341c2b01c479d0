"""Files from anywhere: whatever bytes they hold, they load or end in one of our errors, and run nothing."""

import json
import random
import struct

import pytest
import torch
from safetensors.torch import load, save

from puretransforms.errors import PureTransformsError, WeightsCorruptedError, WeightsMismatchError
from puretransforms.hub.files import CONFIG, WEIGHTS, parse, sha256_of, write
from puretransforms.transforms.base import PureTransform

KEYS = [
    "transform",
    "format",
    "sha256",
    "nf",
    "arch",
    "steps",
    "weights",
    "images",
    "seed",
    "patch_size",
    "_class_name",
]
VALUES = [
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    2**31,
    "",
    "published",
    "../..",
    "__import__('os')",
    [],
    [[1]],
    {},
    {"a": 1},
]
SHAPES = [[], [0], [-1], [2**62, 2**62], [1] * 40, ["a"], [1.5], [True], None, {}]


def mutated_config(config: dict, draw: random.Random) -> bytes:
    kind = draw.randrange(5)
    if kind == 0:
        return json.dumps(config | {draw.choice([*config, *KEYS]): draw.choice(VALUES)}).encode()
    if kind == 1:
        return json.dumps({key: value for key, value in config.items() if draw.random() < 0.8}).encode()
    if kind == 2:
        depth = draw.choice([3, 1000, 100_000])
        return b'{"seed": ' + b"[" * depth + b"]" * depth + b"}"
    return mutated_bytes(json.dumps(config).encode(), draw, draw.randrange(1, 6))


def mutated_weights(data: bytes, draw: random.Random) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = draw.randrange(6)
    if kind == 0:
        return struct.pack("<Q", draw.choice([0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1])) + data[8:]
    if kind == 1:
        return data[: draw.randrange(len(data))]
    if kind == 2:
        return mutated_bytes(data, draw, draw.randrange(1, 6))
    if kind == 3:
        return mutated_bytes(data[: 8 + size], draw, draw.randrange(1, 4)) + body
    tensor = header[draw.choice([name for name in header if name != "__metadata__"])]
    field = draw.choice(["dtype", "shape", "data_offsets", None])
    if field is None:
        header[draw.choice(["net.extra", "__proto__", "", "net.head.weight.x"])] = dict(tensor)
    else:
        numbers = [[0, 0], [8, 4], [-4, 0], [0, 2**63], [0]]
        dtypes = ["F64", "F16", "I8", "BOOL", "F8_E4M3", "C64", "U64", "", "F32 ", None]
        tensor[field] = draw.choice({"dtype": dtypes, "shape": SHAPES, "data_offsets": numbers}[field])
    new = json.dumps(header).encode()
    return struct.pack("<Q", len(new)) + new + body


def mutated_bytes(data: bytes, draw: random.Random, times: int) -> bytes:
    out = bytearray(data)
    for _ in range(times):
        place = draw.randrange(len(out))
        out[place : place + draw.choice([0, 1, 1, 4])] = draw.randbytes(draw.choice([0, 1, 1, 4]))
    return bytes(out) or b"\0"


def loads_or_refuses(folder, cls) -> str:
    try:
        cls.from_pretrained(folder, verify=False)
    except PureTransformsError as error:
        assert len(str(error)) < 2000
        return type(error).__name__
    return "loaded"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_mutated_files_load_or_end_in_our_errors(seed, files, tmp_path):
    draw, folder, outcomes = random.Random(seed), tmp_path / "mutant", set()
    folder.mkdir()
    config = json.loads(files[CONFIG])
    del config["sha256"]
    for case in range(500):
        broken = case % 2
        (folder / CONFIG).write_bytes(mutated_config(config, draw) if broken else json.dumps(config).encode())
        (folder / WEIGHTS).write_bytes(files[WEIGHTS] if broken else mutated_weights(files[WEIGHTS], draw))
        outcomes.add(loads_or_refuses(folder, PureTransform))
    assert outcomes >= {"loaded", "WeightsCorruptedError", "WeightsMismatchError"}


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
