"""Damaged, hostile and random weights folders: each loads or ends in an error of the library, and nothing runs.

Half of the files are a mutated config.json beside sound weights; half a model.safetensors with a mutated header, or
cut, or replaced by a pickle that would create a file, beside a sound config. All load with ``verify=False``, for a hash
would stop every one of them. Meanwhile an audit hook notes what Python itself reports of code compiled or run, imports,
processes, sockets, native libraries, unpickling, and files opened to be written. About a minute of CPU.

    python experiments/fuzz_weights.py --cases 2000 --seed 0 --out docs/results/fuzz-weights.json
"""

import argparse
import json
import os
import pickle  # to make what has to be refused
import platform
import random
import struct
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path

import safetensors
import torch

from puretransforms.errors import PureTransformsError
from puretransforms.hub.files import CONFIG, WEIGHTS
from puretransforms.transforms.base import PureTransform
from puretransforms.transforms.ebm import EBMPurify
from puretransforms.transforms.vae import VAEPurify

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
    "auto_map",
    "__class__",
]
VALUES = [None, True, -1, 0, 1e308, 10**30, 2**31, "", "published", "../..", "__import__('os').system('touch ran')"]
VALUES += ["os.system", [], [[1]], {}, {"a": 1}, {"__reduce__": ["os.system", ["touch ran"]]}]
DTYPES = ["F64", "F16", "I8", "BOOL", "F8_E4M3", "C64", "U64", "", "F32 ", None]
SHAPES = [[], [0], [-1], [2**62, 2**62], [1] * 40, ["a"], [1.5], [True], None, {}]
OFFSETS = [[0, 0], [8, 4], [-4, 0], [0, 2**63], [0]]
WATCHED = [
    "exec",
    "compile",
    "import",
    "marshal.loads",
    "pickle.find_class",
    "subprocess.Popen",
    "socket.connect",
    "ctypes.dlopen",
]


class Payload:
    """What a pickle would run."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


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
    kind = draw.randrange(7)
    if kind == 0:
        return struct.pack("<Q", draw.choice([0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1])) + data[8:]
    if kind == 1:
        return data[: draw.randrange(len(data))]
    if kind == 2:
        return mutated_bytes(data, draw, draw.randrange(1, 6))
    if kind == 3:
        return mutated_bytes(data[: 8 + size], draw, draw.randrange(1, 4)) + body
    if kind == 4:
        return pickle.dumps(Payload(), draw.randrange(pickle.HIGHEST_PROTOCOL + 1)) + data[: draw.randrange(2) * 100]
    tensor = header[draw.choice([name for name in header if name != "__metadata__"])]
    field = draw.choice(["dtype", "shape", "data_offsets", None])
    if field is None:
        header[draw.choice(["net.extra", "__proto__", "", "net.head.weight.x"])] = dict(tensor)
    else:
        tensor[field] = draw.choice({"dtype": DTYPES, "shape": SHAPES, "data_offsets": OFFSETS}[field])
    new = json.dumps(header).encode()
    return struct.pack("<Q", len(new)) + new + body


def mutated_bytes(data: bytes, draw: random.Random, times: int) -> bytes:
    out = bytearray(data)
    for _ in range(times):
        place = draw.randrange(len(out))
        out[place : place + draw.choice([0, 1, 1, 4])] = draw.randbytes(draw.choice([0, 1, 1, 4]))
    return bytes(out) or b"\0"


def sound(folder: Path) -> list[tuple[dict, bytes]]:
    """Config and weights of small networks as they are saved, without the hash that would betray a change."""
    found = []
    for made in (EBMPurify(weights=None, nf=2, steps=2), VAEPurify(weights=None, width=8)):
        made.save_pretrained(folder)
        config = json.loads((folder / CONFIG).read_bytes())
        del config["sha256"]
        found.append((config, (folder / WEIGHTS).read_bytes()))
    return found


class Watch:
    """While ``on``, notes the audit events of code, processes, connections and files opened to be written."""

    def __init__(self) -> None:
        self.on, self.seen = False, []
        sys.addaudithook(self.hear)  # there is no way to take it off again

    def hear(self, event: str, args: tuple) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in WATCHED or event.startswith(("os.system", "os.exec", "os.spawn", "os.posix_spawn")):
            self.seen.append(f"{event} {args[:2]!r}"[:200])


def run(folder: Path, cases: int, seed: int) -> tuple[dict[str, Counter], list[str]]:
    """Load ``cases`` mutants from ``folder``: the outcomes by kind of file, and what :class:`Watch` saw.

    Raises:
        Exception: whatever escaped that is no error of the library.
    """
    draw, outcomes, watch = random.Random(seed), {CONFIG: Counter(), WEIGHTS: Counter()}, Watch()
    originals = sound(folder)
    for config, weights in originals:  # once before: what is imported late
        (folder / CONFIG).write_bytes(json.dumps(config).encode())
        (folder / WEIGHTS).write_bytes(weights)
        if outcome(folder) != "loaded":
            raise RuntimeError(f"expected {config} to load as it is")
    for case in range(cases):
        kind = (CONFIG, WEIGHTS)[case % 2]
        config, weights = draw.choice(originals)
        text = mutated_config(config, draw) if kind == CONFIG else json.dumps(config).encode()
        (folder / CONFIG).write_bytes(text)
        (folder / WEIGHTS).write_bytes(mutated_weights(weights, draw) if kind == WEIGHTS else weights)
        watch.on = True
        try:
            outcomes[kind][outcome(folder)] += 1
        finally:
            watch.on = False
    return outcomes, watch.seen


def outcome(folder: Path) -> str:
    try:
        PureTransform.from_pretrained(folder, verify=False)
    except PureTransformsError as error:
        if len(str(error)) > 2000:
            raise AssertionError(f"no sentence but {len(str(error))} characters") from error
        return type(error).__name__
    return "loaded"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    out = args.out.resolve()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        outcomes, noted = run(Path(name), args.cases, args.seed)
        ran = Path("ran").exists()
        os.chdir("/")
    record = {
        "command": f"python experiments/fuzz_weights.py --cases {args.cases} --seed {args.seed}",
        "date": date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
        },
        "outcomes": outcomes,
        "other_errors": 0,  # one would have ended this script
        "audit_events_of_code_or_writing": noted,
        "payload_ran": ran,
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["outcomes"]), len(noted), "audit events")


if __name__ == "__main__":
    main()
