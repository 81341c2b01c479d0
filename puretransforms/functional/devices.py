"""Where work may run, and in which precision."""

import torch

from ..errors import ForkedWorkerError, HardwareError
from . import checks

PRECISIONS = ("auto", "bf16", "fp32")


def check_not_forked_cuda(device: torch.device) -> None:
    """Raise :class:`ForkedWorkerError` if ``device`` is CUDA and this is a forked DataLoader worker.

    CUDA cannot be used again in a process forked from one that uses it; torch's own error does not say what to do.
    """
    if device.type != "cuda" or torch.utils.data.get_worker_info() is None or not torch.cuda._is_in_bad_fork():
        return
    raise ForkedWorkerError(
        "expected CUDA work in the main process, got a forked DataLoader worker: wrap the loader in "
        "puretransforms.GPUTransformLoader(loader, transform, device) so that the transform runs on the GPU after the "
        'batch, or keep it on the CPU in the workers, or pass multiprocessing_context="spawn" to the DataLoader.'
    )


def device_named(name: str | torch.device) -> torch.device:
    """The device of a name; whether this machine has it is another question.

    Raises:
        HardwareError: no name of a device.
    """
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise HardwareError(f"expected a device such as cpu, cuda or cuda:1, got {name!r}.") from error


def check_available(device: torch.device) -> None:
    """Raise :class:`HardwareError` unless torch can use ``device`` on this machine."""
    missing_cuda = device.type == "cuda" and not torch.cuda.is_available()
    if missing_cuda or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise HardwareError(
            f"expected a device that torch can use on this machine, got {str(device)!r}: leave it out to work on the "
            "CPU."
        )


def working_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """The dtype in which a network computes on ``device``.

    Args:
        precision: ``"bf16"``, ``"fp32"``, or ``"auto"``: bfloat16 where the hardware computes in it, else float32. A
            CPU without such instructions emulates them, 5 to 10 times slower than float32. The hardware that has them:
            CPUs with AVX512-BF16 or AMX, CUDA from compute capability 8.0 on, MPS.
        device: where the network is.

    Raises:
        ValueError: another precision.
    """
    checks.choice("precision", precision, PRECISIONS)
    if precision == "auto":
        return torch.bfloat16 if _computes_in_bfloat16(torch.device(device)) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "mps"
