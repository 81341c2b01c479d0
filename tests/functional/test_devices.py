"""``precision="auto"`` on every kind of CPU and GPU, pretended by the flags that torch reports."""

import pytest
import torch

from puretransforms.functional.devices import working_dtype
from puretransforms.train.classifier import _autocast
from puretransforms.transforms.ebm import EBMPurify
from puretransforms.transforms.vae import VAEPurify

CPUS = {  # AVX512-BF16, AMX -> dtype
    "AVX2 alone": (False, False, torch.float32),
    "AVX-512 without bfloat16": (False, False, torch.float32),
    "AVX512-BF16": (True, False, torch.bfloat16),
    "AMX": (True, True, torch.bfloat16),
    "AMX, the other flag hidden": (False, True, torch.bfloat16),
}


def pretend_cpu(monkeypatch, avx512_bf16: bool, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.mark.parametrize("kind", CPUS)
def test_each_kind_of_cpu(monkeypatch, kind):
    avx512_bf16, amx, want = CPUS[kind]
    pretend_cpu(monkeypatch, avx512_bf16, amx)
    assert working_dtype("auto", "cpu") == want
    assert working_dtype("bf16", "cpu") == torch.bfloat16 and working_dtype("fp32", "cpu") == torch.float32
    with _autocast(torch.device("cpu"), "auto"):
        assert torch.is_autocast_enabled("cpu") == (want == torch.bfloat16)


@pytest.mark.parametrize(("major", "want"), [(7, torch.float32), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_each_kind_of_gpu(monkeypatch, major, want):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"major": major}))
    pretend_cpu(monkeypatch, False, False)
    assert working_dtype("auto", "cuda:0") == want
    assert working_dtype("auto", torch.device("mps")) == torch.bfloat16
    assert working_dtype("auto", "meta") == torch.float32


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("kind", [EBMPurify, VAEPurify])
def test_a_purifier_by_default_is_the_one_of_the_hardware(monkeypatch, native, kind):
    pretend_cpu(monkeypatch, native, native)
    options = {"seed": 0} | ({"steps": 3} if kind is EBMPurify else {})
    default = kind(**options)
    assert default.precision == "auto" and default._config()["precision"] == "auto", "a config keeps what was asked"
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    same, other = ("bf16", "fp32") if native else ("fp32", "bf16")
    assert torch.equal(default(x), kind(**options, precision=same)(x))
    assert not torch.equal(default(x), kind(**options, precision=other)(x))


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="expected precision to be one of auto, bf16, fp32, got 'fp8'"):
        working_dtype("fp8", "cpu")
