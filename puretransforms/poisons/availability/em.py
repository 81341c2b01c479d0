"""EM: error-minimising noise, "unlearnable examples" (Huang et al., ICLR 2021, arXiv 2101.04898).

``min_theta min_{||delta|| <= epsilon} sum CE(f_theta(x + delta), y)``: a network learns from the perturbed images for a
few steps, the noise goes a few sign steps towards lower loss, and so on until the network finds nothing left to learn.
"""

from itertools import islice

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ...functional.checks import flag, number, whole
from ...functional.shapes import Float, Int, Labels, Pixels, Tensor
from ...registry import register
from ..optimise import PGD, endless_batches, frozen, logits_of, loss_towards, new_surrogate
from ..progress import Progress
from ..stored import StoredPoison

APBENCH = {"pgd_steps": 5, "step": 8 / 255 / 5}
"""Arguments of :class:`EMSamplewise` in the variant of Qin et al. (TMLR 2024): five steps to the ball's face."""

_BATCH = 500  # of a sweep


@register("em_samplewise")
class EMSamplewise(StoredPoison):
    """An error-minimising noise image for each image.

    Each round: ``train_steps`` SGD steps of the surrogate (0.1, momentum 0.9, weight decay 5e-4, gradient clipped to 5)
    on images wearing the noise, then one sweep over the images in which each takes ``pgd_steps`` sign steps from its
    noise. The defaults are the authors' (20 steps of 0.8/255, stop at 99 %); ``EMSamplewise(**APBENCH)`` is the
    five-step variant. Cost: each round is ``pgd_steps`` passes over the dataset, and ten to twenty rounds are usual, so
    this is work for a GPU beyond some thousand images.

    A ``surrogate`` given to ``fit`` is trained further: pass an untrained one, as in the paper.

    Args:
        epsilon, step: the ball and the length of a step, in pixel units; the paper's are 8/255 and a tenth of it.
        pgd_steps, train_steps: of one round, see above.
        stop_accuracy: end once the surrogate is this good on the perturbed images; ``max_rounds`` ends it anyway, and
            ``history`` tells the accuracies reached.
        one_sided: use the positive half of the noise only, as the authors' stored results do; many later papers use
            both halves, which is another poison.
        width: of the library's ResNet-18 surrogate (64 in the paper).
        batch_size: of the surrogate's training.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`; ``seed`` fixes the surrogate.
    """

    def __init__(
        self,
        *,
        epsilon: float = 8 / 255,
        step: float = 0.8 / 255,
        pgd_steps: int = 20,
        train_steps: int = 10,
        stop_accuracy: float = 0.99,
        max_rounds: int = 30,
        one_sided: bool = False,
        width: int = 16,
        batch_size: int = 128,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(epsilon=epsilon, num_classes=num_classes, seed=seed, quantize=quantize)
        self.step = number("step", step, above=0)
        self.pgd_steps = whole("pgd_steps", pgd_steps, least=1)
        self.train_steps = whole("train_steps", train_steps, least=1)
        self.stop_accuracy = number("stop_accuracy", stop_accuracy)
        self.max_rounds = whole("max_rounds", max_rounds, least=1)
        self.one_sided = flag("one_sided", one_sided)
        self.width = whole("width", width, least=1)
        self.batch_size = whole("batch_size", batch_size, least=1)
        self.history: list[float] = []  # accuracy of the surrogate on the perturbed images after each round

    def craft(
        self, images: Pixels, labels: Labels, surrogate: nn.Module | None, progress: Progress
    ) -> Float[Tensor, "m c h w"]:
        if surrogate is None:
            surrogate = new_surrogate(self.num_classes, self.width, self.seed, images.shape[1]).to(images.device)
        generator = torch.Generator().manual_seed(self.seed)
        rows = self.num_classes if self.classwise else len(images)
        delta = torch.zeros(rows, *images.shape[1:], device=images.device)
        optimizer = torch.optim.SGD(surrogate.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        batches = endless_batches(len(images), self.batch_size, generator)
        self.history = []
        sweep = -(-self._swept_count(len(images)) // _BATCH) * self.pgd_steps
        progress.begin("perturbation", self.max_rounds * (self.train_steps + sweep))
        for _ in range(self.max_rounds):
            surrogate.train()
            for part in islice(batches, self.train_steps):
                loss = cross_entropy(logits_of(surrogate, self._worn(images, labels, delta, part)), labels[part])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(surrogate.parameters(), 5.0)
                optimizer.step()
                progress.step()
            with frozen(surrogate), torch.no_grad():
                swept = self._swept(len(images), generator)
                delta = self._sweep(surrogate, images, labels, delta, swept, progress)
                self.history.append(self._accuracy(surrogate, images, labels, delta, swept))
            if self.history[-1] >= self.stop_accuracy:
                break
        return self._shown(delta)

    def _swept_count(self, count: int) -> int:
        """How many of ``count`` images move the noise in each round."""
        return count

    def _swept(self, count: int, generator: torch.Generator) -> Int[Tensor, " m"]:
        """The images that move the noise in this round, and that the surrogate is then judged on."""
        return torch.arange(count)

    def _sweep(
        self, surrogate: nn.Module, images: Tensor, labels: Tensor, delta: Tensor, swept: Tensor, progress: Progress
    ) -> Tensor:
        """The noise after one sweep over the images ``swept``."""
        walk = PGD(self.epsilon, self.step, self.pgd_steps)
        for part in swept.split(_BATCH):
            x = images[part].float() / 255
            delta[part] = walk.run(x, [loss_towards(surrogate, labels[part])], delta[part], progress)
        return delta

    def _shown(self, delta: Tensor) -> Tensor:
        """The part of the noise that images wear: all of it, or what one-sided storage keeps."""
        return delta.clamp_min(0) if self.one_sided else delta

    def _worn(self, images: Tensor, labels: Tensor, delta: Tensor, part: Tensor) -> Tensor:
        noise = self._shown(delta[labels[part] if self.classwise else part])
        return (images[part].float() / 255 + noise).clamp(0, 1)

    def _accuracy(self, surrogate: nn.Module, images: Tensor, labels: Tensor, delta: Tensor, swept: Tensor) -> float:
        hits = [
            logits_of(surrogate, self._worn(images, labels, delta, part)).argmax(1) == labels[part]
            for part in swept.split(_BATCH)
        ]
        return float(torch.cat(hits).double().mean())


@register("em_classwise")
class EMClasswise(EMSamplewise):
    """One error-minimising noise image per class.

    As :class:`EMSamplewise`, but each round sweeps over a random share ``subset`` of the images, and the new noise of a
    class is the mean over its images. The surrogate shall reach 90 % here.

    Args:
        subset: of the images that move the noise in one round, 0 to 1.
        epsilon, step, pgd_steps, train_steps, stop_accuracy, max_rounds, one_sided, width, batch_size: see
            :class:`EMSamplewise`.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`; ``seed`` fixes the surrogate.
    """

    classwise = True

    def __init__(
        self,
        *,
        epsilon: float = 8 / 255,
        step: float = 0.8 / 255,
        pgd_steps: int = 1,
        train_steps: int = 10,
        subset: float = 0.2,
        stop_accuracy: float = 0.9,
        max_rounds: int = 60,
        one_sided: bool = False,
        width: int = 8,
        batch_size: int = 128,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(
            epsilon=epsilon,
            step=step,
            pgd_steps=pgd_steps,
            train_steps=train_steps,
            stop_accuracy=stop_accuracy,
            max_rounds=max_rounds,
            one_sided=one_sided,
            width=width,
            batch_size=batch_size,
            num_classes=num_classes,
            seed=seed,
            quantize=quantize,
        )
        self.subset = number("subset", subset, above=0, most=1)

    def _swept_count(self, count: int) -> int:
        return max(1, round(self.subset * count))

    def _swept(self, count: int, generator: torch.Generator) -> Int[Tensor, " m"]:
        return torch.randperm(count, generator=generator)[: self._swept_count(count)]

    def _sweep(
        self, surrogate: nn.Module, images: Tensor, labels: Tensor, delta: Tensor, swept: Tensor, progress: Progress
    ) -> Tensor:
        walk = PGD(self.epsilon, self.step, self.pgd_steps, clip=False)
        total, count = torch.zeros_like(delta), delta.new_zeros(len(delta))
        for part in swept.split(_BATCH):
            y = labels[part]
            moved = walk.run(images[part].float() / 255, [loss_towards(surrogate, y)], delta[y], progress)
            total.index_add_(0, y, moved)
            count.index_add_(0, y, torch.ones_like(y, dtype=count.dtype))
        mean = total / count.clamp_min(1)[:, None, None, None]
        return torch.where(count[:, None, None, None] > 0, mean, delta)
