"""Units on a Ray cluster: Ray Data hands unit numbers to actors, and each actor is a small local engine.

Ray places actors, restarts the dead and gives their units to others; what is done is known by the done-marks, as in
every other engine, so that also the driver may die. Output and source must be visible to all nodes: a shared folder or
an object store.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...errors import MissingExtraError, PureTransformsError
from ..pipeline import Job
from ..purifier import own_copy
from .local import clean_units

_BLOCKS = 10_000  # Ray's own work grows with their number


class UnitCleaner:
    """An actor: a copy of the job, which cleans one unit at each call."""

    def __init__(self, job: Any, unit_size: int) -> None:
        import ray
        import torch

        torch.set_num_threads(1)
        given: Job = ray.get(job)
        self.job = replace(given, purifier=own_copy(given.purifier, given.seed, given.device))
        self.units = given.writer.plan(unit_size)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """``{"unit": numbers}`` to ``{"entries": how many each held}``; what carries a mark is not done again."""
        sizes = []
        for number in batch["unit"].tolist():
            unit = self.units[number]
            layout = self.job.writer.layout
            if not layout.store.exists(layout.mark(number)):
                clean_units(self.job, [unit], lambda _: None)
            sizes.append(len(unit.tasks))
        return {"entries": sizes}


def run_on_ray(job: Job, units: list[int], unit_size: int, actors: int | None, advance: Callable[[int], Any]) -> None:
    """Clean the units with these numbers.

    Args:
        job: is pickled once, and travels through Ray's object store.
        actors: how many; default: one for each core of the cluster, or with a CUDA device one for each GPU.

    Raises:
        MissingExtraError: Ray is not installed.
        PureTransformsError: what a unit raised, as by the local engine.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("expected Ray for engine='ray': pip install 'puretransforms[ray]'.") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False  # ours counts images
    plain, context.raise_original_map_exception = context.raise_original_map_exception, True
    gpus = 1.0 if job.device.type == "cuda" else 0.0
    resources = ray.cluster_resources()
    most = int(resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 1)) or 1
    numbers = ray.data.from_items([{"unit": number} for number in units], override_num_blocks=min(len(units), _BLOCKS))
    cleaned = numbers.map_batches(
        UnitCleaner,
        fn_constructor_args=(ray.put(job), unit_size),
        batch_size=1,
        num_cpus=0 if gpus else job.workers,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=min(actors or most, len(units))),
        max_restarts=-1,
        max_task_retries=-1,
    )
    try:
        for row in cleaned.iter_rows():
            advance(int(row["entries"]))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, PureTransformsError):
            raise cause from error
        raise
    finally:
        context.enable_progress_bars, context.raise_original_map_exception = shown, plain
