"""What every optimised poison is made of: a network to optimise against, and projected gradient steps inside a ball.

    ``delta <- clip_eps(delta -+ step * sign(grad_delta mean_j L_j(x + delta)))``, then ``x + delta`` into ``[0, 1]``

(Madry et al., ICLR 2018, arXiv 1706.06083). What a poison is lies in the arguments: the losses ``L_j`` (one, a list of
checkpoints, or draws of an augmentation), the labels they aim at, the sign, the ball, and where ``delta`` starts. The
network is the caller's, or a small one trained here on the clean data.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..errors import LabelError, NoImageError, SurrogateError
from ..functional.shapes import Float, Images, Int, Labels, Pixels, Tensor
from ..models.resnet import ResNet18
from ..train.classifier import _autocast, train_classifier
from .progress import Progress

Loss = Callable[[Tensor], Tensor]  # images [B, C, H, W] in [0, 1] -> one loss each [B]
View = Callable[[Tensor], Tensor]  # a differentiable augmentation

# --- projected gradient steps -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PGD:
    """A budget and a walk inside it.

    Args:
        epsilon: L-infinity bound in pixel units of ``[0, 1]``.
        step: length of a sign step, same units.
        steps: how many.
        ascend: raise the losses instead of lowering them.
        clip: keep ``x + delta`` in ``[0, 1]``; off where one ``delta`` serves many images.
    """

    epsilon: float
    step: float
    steps: int
    ascend: bool = False
    clip: bool = True

    def run(
        self,
        x: Images,
        losses: Sequence[Loss],
        start: Float[Tensor, "b c h w"] | None = None,
        progress: Progress | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The perturbation ``delta`` ``[B, C, H, W]`` of the images ``x``, from ``start`` (zero if not given).

        The gradients of ``losses`` are taken one by one and averaged, so that memory holds one graph at a time.
        ``progress`` is advanced once for each step.
        """
        delta = self.project(x, torch.zeros_like(x) if start is None else start)
        towards = self.step if self.ascend else -self.step
        for _ in range(self.steps):
            delta = self.project(x, delta + towards * gradient(x + delta, losses).sign())
            if progress is not None:
                progress.step()
        return delta

    def project(self, x: Images, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """``delta`` brought into the ball, and with :attr:`clip` the image into ``[0, 1]``."""
        delta = delta.clamp(-self.epsilon, self.epsilon)
        return (x + delta).clamp(0, 1) - x if self.clip else delta

    def random_start(self, x: Images, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """``clip_eps(N(0, 1) * epsilon)``: a third of the values start on the faces of the ball."""
        normal = torch.randn(x.shape, generator=generator).to(x)
        return self.project(x, normal * self.epsilon)

    def uniform_start(self, x: Images, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """Uniform in the ball."""
        uniform = torch.rand(x.shape, generator=generator).to(x)
        return self.project(x, (uniform * 2 - 1) * self.epsilon)


def gradient(x: Images, losses: Sequence[Loss]) -> Float[Tensor, "b c h w"]:
    """Gradient of the mean of ``losses``, summed over images, at ``x``; each image's own, if no loss mixes images."""
    total = torch.zeros_like(x)
    with torch.enable_grad():
        for loss in losses:
            point = x.detach().requires_grad_(True)
            total += torch.autograd.grad(loss(point).sum(), point)[0]
    return total / len(losses)


def loss_towards(model: nn.Module, labels: Labels, view: View | None = None) -> Loss:
    """Cross-entropy ``CE(model(view(x)), labels)`` of each image."""

    def loss(x: Images) -> Float[Tensor, " b"]:
        return cross_entropy(logits_of(model, x if view is None else view(x)), labels, reduction="none")

    return loss


def shifted(labels: Labels, shift: int, num_classes: int) -> Labels:
    """The target map ``(y + shift) mod K``."""
    return (labels + shift) % num_classes


# --- the network ------------------------------------------------------------------------------------------------------


def new_surrogate(num_classes: int, width: int, seed: int, channels: int = 3) -> ResNet18:
    """An untrained ResNet-18 for raw pixels in ``[0, 1]``, initialised by ``seed`` alone."""
    if channels != 3:
        raise NoImageError(
            f"expected RGB images for the library's surrogate, got {channels} channel(s): convert them with "
            'image.convert("RGB"), or pass a surrogate= of your own for such images.'
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ResNet18(num_classes, width=width)


def trained_checkpoints(
    images: Pixels,
    labels: Labels,
    count: int = 1,
    *,
    num_classes: int,
    width: int,
    epochs: int,
    seed: int,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> list[ResNet18]:
    """``count`` states of one training of a ResNet-18 on clean data, with crops and flips.

    Equally spaced over its ``epochs``; the last is the end of it.
    """
    model = new_surrogate(num_classes, width, seed, images.shape[1]).to(images.device)
    kept = {round((place + 1) * epochs / count) for place in range(count)}
    progress = progress or Progress()

    def advance(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        progress.step()
        return x, y

    progress.begin("surrogate", epochs * math.ceil(len(images) / batch_size))
    records = train_classifier(model, images, labels, epochs=epochs, batch_size=batch_size, seed=seed, adapt=advance)
    return [deepcopy(model) for record in records if record.epoch in kept]


def endless_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
    """Shuffled places ``0 .. count - 1`` in batches of ``size`` at most, epoch after epoch."""
    while True:
        yield from torch.randperm(count, generator=generator).tensor_split(-(-count // size))


@contextmanager
def frozen(*models: nn.Module) -> Iterator[None]:
    """All in evaluation mode and without gradients of their own; put back as they were afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for model in models for parameter in model.parameters()]
    for model in models:
        model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def logits_of(model: nn.Module, x: Images) -> Float[Tensor, "b k"]:
    """float32 logits of float images in ``[0, 1]``; in bfloat16 where the hardware has it."""
    with _autocast(x.device, "auto"):
        logits = model(x.contiguous(memory_format=torch.channels_last))
    return logits.float()


def features_of(model: nn.Module, x: Images, layers: Sequence[str] = ()) -> list[Float[Tensor, "b _"]]:
    """What the modules named ``layers`` put out, and last what the last linear layer is given: float32 ``[B, F]`` each.

    Raises:
        SurrogateError: the network has no such module, or no linear layer.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    known = dict(model.named_modules())
    missing = [name for name in layers if name not in known]
    if missing or not linear:
        raise SurrogateError(
            f"expected a surrogate with {f'a module {missing[0]!r}' if missing else 'a linear layer'}, got "
            f"{type(model).__name__} of {', '.join(known)[:200]}: name its own modules, or pass another network."
        )
    seen: dict[int, Tensor] = {}
    hooks = [linear[-1].register_forward_pre_hook(lambda module, given: seen.update({len(layers): given[0]}))]
    for place, name in enumerate(layers):
        hooks.append(known[name].register_forward_hook(lambda module, _, out, place=place: seen.update({place: out})))
    try:
        logits_of(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[place].float().flatten(1) for place in sorted(seen)]


@torch.no_grad()
def check_surrogate(model: nn.Module, image: Float[Tensor, "1 c h w"], num_classes: int) -> None:
    """Raise unless ``model`` is where the image is, and maps it to ``num_classes`` logits."""
    elsewhere = next((p.device for p in model.parameters() if p.device != image.device), None)
    if elsewhere is not None:
        raise SurrogateError(
            f"expected the surrogate on {image.device}, where the images are, got it on {elsewhere}: call "
            f'surrogate.to("{image.device}"), or fit with device="{elsewhere}".'
        )
    with frozen(model):
        logits = model(image)
    if logits.shape != (1, num_classes):
        raise LabelError(
            f"expected a surrogate that maps images {list(image.shape)} to logits [1, {num_classes}], got "
            f"{list(logits.shape)}: pass num_classes=... to the poison, or a surrogate for these classes."
        )
