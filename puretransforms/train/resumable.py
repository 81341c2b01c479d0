"""A training run that can stop after any update and go on later as if it had not."""

import math
from collections.abc import Callable

import torch
from torch import nn

from ..data.images import check_stored
from ..errors import DivergenceError
from ..functional.shapes import Float, Int, Tensor

Schedule = Callable[[float], float]
Augment = Callable[[Tensor, torch.Generator], Tensor]
State = dict[str, Tensor]


def cosine(progress: float) -> float:
    """Learning-rate factor ``(1 + cos(pi * progress)) / 2``, for ``progress`` from 0 to 1."""
    return (1 + math.cos(math.pi * progress)) / 2


def staircase(progress: float) -> float:
    """Learning-rate factor of PureEBM's code: a tenth at each of 1/3, 5/8 and 5/6 of the training."""
    return 0.1 ** sum(progress >= drop for drop in (1 / 3, 5 / 8, 5 / 6))


class ResumableRun:
    """What training loops on images share: data, private randomness, Adam, and the state that resumes them.

    Everything random comes from one CPU generator, so a seed means the same draws on every device.

    Args:
        net: trained in place, on the device where it is.
        images: uint8 ``[N, 3, H, W]``.
        batch_size, updates, lr, schedule, augment, seed, state: as in
            :func:`~puretransforms.train.energy.denoising_score_matching`.

    Raises:
        NoImageError: ``images`` is not uint8 ``[N, 3, H, W]``.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        batch_size: int,
        augment: Augment | None,
        updates: int,
        lr: float,
        schedule: Schedule,
        seed: int,
        state: State | None,
    ) -> None:
        check_stored(images, channels=3)
        if batch_size < 1 or updates < 0:
            raise ValueError(f"expected batch_size >= 1 and updates >= 0, got {batch_size} and {updates}.")
        self.device = next(net.parameters()).device
        self.net = net.requires_grad_(True).to(memory_format=torch.channels_last)
        self.images, self.augment = images.to(self.device), augment
        self.rate = lambda step: lr * schedule(step / updates)
        self.adam = torch.optim.Adam(net.parameters(), lr)
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.lr = 0, lr
        self.extra: State = {}
        if state is not None:
            self.resume(state)

    def state(self) -> State:
        state = {"step": torch.tensor(self.step), "generator": self.generator.get_state(), **self.extra}
        state |= {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        for index, moments in self.adam.state_dict()["state"].items():
            state |= {f"adam.{index}.{name}": tensor for name, tensor in moments.items()}
        return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}

    def resume(self, state: State) -> None:
        parts: dict[str, State] = {"net": {}, "adam": {}}
        for name, tensor in state.items():
            head, _, rest = name.partition(".")
            parts.get(head, self.extra)[rest or name] = tensor.clone()
        if not {"step", "generator"} <= self.extra.keys():
            raise ValueError(f"expected the state() of a record, got tensors {', '.join(state) or 'none'}.")
        self.step = int(self.extra.pop("step"))
        self.generator.set_state(self.extra.pop("generator").cpu())
        self.extra = {name: tensor.to(self.device) for name, tensor in self.extra.items()}
        self.net.load_state_dict(parts["net"], strict=True)
        moments: dict[int, State] = {}
        for name, tensor in parts["adam"].items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        self.adam.load_state_dict(self.adam.state_dict() | {"state": moments})

    def minimise(self, loss: Tensor) -> float:
        """One Adam step on ``loss``; refuses to take one on a loss that is not finite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergenceError(
                f"expected a finite loss, got {value} at update {self.step + 1} (lr={self.lr:.3g}): go on from an "
                "earlier state with a lower lr."
            )
        self.lr = self.rate(self.step)
        for group in self.adam.param_groups:
            group["lr"] = self.lr
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.adam.step()
        self.step += 1
        return value

    def draw(self, count: int) -> Float[Tensor, "b 3 h w"]:
        """Random images in ``[-1, 1]``, ``channels_last``."""
        rows = torch.randint(len(self.images), (count,), generator=self.generator)
        batch = self.images[rows.to(self.device)]
        batch = batch if self.augment is None else self.augment(batch, self.generator)
        return batch.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(self.device)

    def uniform(self, count: int) -> Float[Tensor, " b"]:
        return torch.rand(count, generator=self.generator).to(self.device)

    def integer(self) -> int:
        return int(torch.randint(2**63 - 1, (), generator=self.generator))

    def permutation(self, count: int) -> Int[Tensor, " n"]:
        return torch.randperm(count, generator=self.generator).to(self.device)
