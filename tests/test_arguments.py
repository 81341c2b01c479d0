"""Constructor arguments of every purifier and every poison: one right sentence for each value that cannot be.

In a process of its own: the suite's own check of annotations would answer first.
"""

import functools
import json
import subprocess
import sys

SCRIPT = r"""
import inspect, json, typing
import puretransforms
from puretransforms import poisons
from puretransforms.transforms.projection import OrthogonalProjection
from puretransforms.poisons.targeted.base import TargetedPoison

def kinds(parameter):
    found = typing.get_args(parameter.annotation) or (parameter.annotation,)
    return set(found) - {type(None)}

WRONG = {int: [2.5, "x", "7", True, [1]], float: ["2", True, float("nan"), [1.0]], bool: [1, "yes"], str: ["nonsense"]}
FREE = {"weights", "device", "pretrained", "layers", "coefficients", "chain"}
made = [getattr(puretransforms, name) for name in puretransforms.__all__] + [OrthogonalProjection]
bases = (puretransforms.PureTransform, poisons.Poison, TargetedPoison)
made += [getattr(poisons, name) for name in poisons.__all__]
seen = {}
for kind in dict.fromkeys(made):
    if not (inspect.isclass(kind) and issubclass(kind, bases)) or kind in (*bases, poisons.Backdoor):
        continue
    parameters = inspect.signature(kind.__init__).parameters
    untrained = {"weights": None} if "weights" in parameters else {}
    wrong = [(p.name, value) for p in parameters.values() if p.name not in FREE and len(kinds(p)) == 1
             for value in WRONG.get(next(iter(kinds(p))), [])]
    if issubclass(kind, puretransforms.PureTransform):
        wrong += [("seed", value) for value in WRONG[int]] + [("chunk_size", value) for value in WRONG[int]]
    for name, value in dict.fromkeys((name, repr(value)) for name, value in wrong):
        given = eval(value, {"nan": float("nan")})
        try:
            kind(**untrained | {name: given})
            answer = "silence"
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        seen[f"{kind.__name__}({name}={value})"] = (name, value, answer)
print(json.dumps(seen))
"""


@functools.cache
def answers() -> dict[str, tuple[str, str, str]]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout)


def wrong(which: dict) -> list[str]:
    """Those without one sentence that names the argument, what was expected and what came."""
    return [
        f"{call}: {answer}"
        for call, (name, value, answer) in which.items()
        if "\n" in answer
        or not answer.startswith((f"TypeError: expected {name} ", f"ValueError: expected {name} "))
        or f", got {value}" not in answer
    ]


def of_the_base(call: str) -> bool:
    """Is this an argument that every purifier hands up to the base?"""
    kind, _, argument = call.partition("(")
    return kind in PURIFIERS and argument.split("=")[0] in ("seed", "chunk_size", "images", "differentiable")


PURIFIERS = {
    "AutoPurify", "BitDepthReduce", "COINInterpolate", "DecoyNoise", "EBMPurify", "GaussianBlur", "Grayscale",
    "JPEGCompress", "MedianBlur", "OrthogonalProjection", "UNetPurify", "VAEPurify",
}  # fmt: skip


def test_every_argument_of_every_class_is_checked():
    found = answers()
    assert len(found) > 500 and {call.split("(")[0] for call in found} >= PURIFIERS | {"TAP", "BullseyePolytope"}
    assert wrong({call: answer for call, answer in found.items() if not of_the_base(call)}) == []


def test_every_argument_of_the_base_is_checked():
    assert wrong({call: answer for call, answer in answers().items() if of_the_base(call)}) == []
