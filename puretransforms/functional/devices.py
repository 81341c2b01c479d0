"""Where work may run."""

import torch

from ..errors import ForkedWorkerError


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
