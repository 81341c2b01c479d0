"""EBMPurify(compiled=True): the images of the plain chain, one compilation, the same files, and a clear refusal.

Compilation runs in processes of its own, as users run it: the shape checks of the tests are no part of a graph.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from puretransforms.models import compiled_chain as compiled
from puretransforms.transforms.ebm import EBMPurify

SMALL = {"weights": None, "nf": 8, "steps": 3, "seed": 0, "precision": "fp32"}


@pytest.fixture
def made(monkeypatch) -> list:
    """No compiler, but the functions that would have been handed to it."""
    functions: list = []
    monkeypatch.setattr(compiled, "_compiled", lambda function: (functions.append(function), function)[1])
    return functions


def stronger(t: EBMPurify) -> EBMPurify:
    with torch.no_grad():
        t.net.head.weight.mul_(30)  # an untrained net hardly drifts
    return t


def pixels(n: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Within one level of 255 on at least 99.9 % of the values."""
    return a.shape == b.shape and bool(((a.int() - b.int()).abs() <= 1).double().mean() >= 0.999)


@pytest.mark.parametrize("options", [{}, {"repeats": 2}, {"arch": "published"}, {"chunk_size": 4}, {"steps": 0}])
def test_options_mean_what_they_mean_without(made, options):
    x, (plain, other) = pixels(), (stronger(EBMPurify(**SMALL | options, compiled=flag)) for flag in (False, True))
    assert agree(other(x), plain(x))
    assert len(made) == 1, "the last, smaller chunk needs no step of its own"
    with torch.inference_mode():
        assert agree(other(x), plain(x))
    assert torch.equal(other.energy(x), plain.energy(x)) and len(made) == 1


def test_the_filter_leaves_the_same_images_untouched(made):
    x, t = pixels(), EBMPurify(**SMALL)
    threshold = t.fit_threshold(x, 0.5)
    found = EBMPurify(**SMALL, threshold=threshold, compiled=True)(x)
    assert agree(found, EBMPurify(**SMALL, threshold=threshold)(x)) and len(made) == 1
    untouched = t.energy(x) < threshold
    assert torch.equal(found[untouched], x[untouched]) and not torch.equal(found[~untouched], x[~untouched])


def test_new_weights_take_effect(made):
    t = EBMPurify(**SMALL, compiled=True)
    before = t(pixels())
    assert agree(stronger(t)(pixels()), stronger(EBMPurify(**SMALL))(pixels())) and not agree(t(pixels()), before)
    assert len(made) == 1


def test_gradients_flow_where_they_are_wanted(made):
    grads = []
    for flag in (False, True):
        x = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3).requires_grad_()
        stronger(EBMPurify(**SMALL, differentiable=True, compiled=flag))(x).sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads) and not torch.equal(grads[0], torch.ones_like(grads[0])) and not made


def test_files_know_nothing_of_it(made, tmp_path):
    plain, other = (stronger(EBMPurify(**SMALL, compiled=flag)) for flag in (False, True))
    other(pixels())
    assert other.state_dict().keys() == plain.state_dict().keys()
    for t, name in ((plain, "plain"), (other, "other")):
        t.save_pretrained(tmp_path / name)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "other")]
    assert configs[0] == configs[1] and "compiled" not in configs[0]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "other")]
    assert weights[0].keys() == weights[1].keys()
    loaded = EBMPurify.from_pretrained(tmp_path / "other", compiled=True)
    assert loaded.compiled and agree(loaded(pixels()), plain(pixels())) and len(made) == 2
    assert not EBMPurify.from_pretrained(tmp_path / "other").compiled
    assert EBMPurify(tmp_path / "other", nf=8, compiled=True).compiled


SCRIPT = """
import copy, pickle, sys, torch
from torch._dynamo.testing import CompileCounterWithBackend
from puretransforms.errors import CompilationError
from puretransforms.models import compiled_chain as compiled
from puretransforms.transforms.ebm import EBMPurify

torch.set_num_threads(1)
backend, precision, device = sys.argv[1:]
counter = CompileCounterWithBackend(backend)
compiled._compiled = lambda function: torch.compile(function, dynamic=False, backend=counter)
captured, capture = [], compiled._captured
compiled._captured = lambda work: (captured.append(work), capture(work))[1]
options = {"weights": None, "nf": 16, "steps": 6, "seed": 0, "chunk_size": 8, "precision": precision, "device": device}
x = torch.randint(0, 256, (19, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def purifier(**more):
    t = EBMPurify(**options, **more)
    with torch.no_grad():
        t.net.head.weight.mul_(30)
    return t


def agree(a, b):
    assert ((a.int() - b.int()).abs() <= 1).double().mean() >= 0.999, (a.int() - b.int()).abs().max()


plain, t = purifier(), purifier(compiled=True)
names, want = list(t.state_dict()), plain(x)
assert (want != x).double().mean() > 0.5
agree(t(x), want)  # chunks of 8, 8 and 3
assert counter.frame_count == 1, counter.frame_count
agree(t(x[:1]), want[:1])
with torch.inference_mode():
    agree(t(x), want)
    agree(t(x.clone()), want)
assert counter.frame_count == 1 and not torch._dynamo.utils.counters["graph_break"]
for twin in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
    assert list(twin.state_dict()) == names
    agree(twin(x[:8]), want[:8])
assert counter.frame_count == 1, "copies find what was compiled"
"""
FAILING = """
torch._inductor.config.cpp.cxx = ("no-such-compiler",)
compiled._compiled = lambda function: torch.compile(function, dynamic=False)
torch._dynamo.reset()
try:
    purifier(compiled=True)(x[:2])
except CompilationError as error:
    assert "C++ compiler" in str(error) and "compiled=False" in str(error) and len(str(error)) < 400, error
    print(error)
else:
    raise AssertionError("no error")
"""
ON_CUDA = """
assert len(captured) == 3  # of the first and of the two copies
from puretransforms.functional.random import KeyedNoise
from puretransforms.models.energy import frozen
net, chain = frozen(t.net), t._compiled_chain
y, noise = torch.rand(8, 3, 16, 16, device="cuda"), KeyedNoise(0, torch.arange(8, device="cuda"))
settings = {"steps": 6, "step_size": 0.0125, "temperature": 1e-4}
first = chain(net, y, noise, **settings)
torch.cuda.set_sync_debug_mode("error")
again = chain(net, y, noise, **settings)
torch.cuda.set_sync_debug_mode("default")
assert torch.equal(first, again)
side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    elsewhere = chain(net, y, noise, **settings)
back = chain(net, y, noise, **settings)
torch.cuda.synchronize()
assert torch.equal(first, elsewhere) and torch.equal(first, back)
"""


def run(script: str, *arguments: str, cache: os.PathLike | None = None) -> str:
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if cache is not None:
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_one_graph_serves_every_chunk_mode_and_copy():
    run(SCRIPT, "aot_eager", "fp32", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_real_compiler_gives_the_same_images(precision, tmp_path):
    run(SCRIPT, "inductor", precision, "cpu", cache=tmp_path)


@pytest.mark.slow
def test_without_a_compiler_there_is_one_clear_sentence(tmp_path):
    assert run(SCRIPT + FAILING, "eager", "fp32", "cpu", cache=tmp_path).startswith("expected torch.compile to work")


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_cuda_one_graph_is_captured_and_nothing_waits(precision, tmp_path):
    run(SCRIPT + ON_CUDA, "inductor", precision, "cuda", cache=tmp_path)
