"""PIL: Perturbation-Induced Linearization (Liu, Chen & Zhang, ICLR 2026, arXiv 2601.19967).

With a linear classifier ``f`` trained on the clean data and uniform ``u``, in the authors' signs (``x' = x - delta``):
``min_{||delta|| <= epsilon} lambda CE(f(delta), y) + (1 - lambda) KL(u || softmax f(x - delta))``. The perturbation
alone says the class, and what is left of the image says nothing, to a linear eye.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from ...functional.checks import number, whole
from ...functional.shapes import Float, Int, Tensor, UInt8
from ...registry import register
from ..optimise import PGD, Loss, frozen, logits_of
from ..progress import Progress
from ..stored import StoredPoison

_BATCH = 512  # of the authors, for both stages


@register("pil")
class PIL(StoredPoison):
    """Perturb every image against a linear classifier alone.

    The surrogate is the authors': two linear layers without bias between pixels and logits, trained on the clean data
    by SGD (0.003, momentum 0.9, cosine, no augmentation) unless one is given. Then every image takes ``steps`` sign
    steps from a uniform start in the ball.

    Args:
        epsilon, step: the ball and the length of a step, in pixel units; a tenth of it in the paper.
        steps: of the perturbation.
        balance: ``lambda``, the weight of the shortcut against that of hiding the image.
        epochs: of the surrogate.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`; ``seed`` fixes the surrogate and
            the starts. The authors store floats.
    """

    def __init__(
        self,
        *,
        epsilon: float = 8 / 255,
        step: float = 0.8 / 255,
        steps: int = 30,
        balance: float = 0.9,
        epochs: int = 30,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(epsilon=epsilon, num_classes=num_classes, seed=seed, quantize=quantize)
        self.step = number("step", step, above=0)
        self.steps = whole("steps", steps, least=1)
        self.balance = number("balance", balance, least=0, most=1)
        self.epochs = whole("epochs", epochs, least=1)

    def craft(
        self,
        images: UInt8[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        surrogate: nn.Module | None,
        progress: Progress,
    ) -> Float[Tensor, "n c h w"]:
        generator = torch.Generator().manual_seed(self.seed)
        if surrogate is None:
            surrogate = self._trained(images, labels, generator, progress)
        walk = PGD(self.epsilon, self.step, self.steps, clip=False)
        parts = list(zip(images.split(_BATCH), labels.split(_BATCH), strict=True))
        progress.begin("perturbation", len(parts) * self.steps)
        found = []
        with frozen(surrogate):
            for part, y in parts:
                x = part.float() / 255
                found.append(walk.run(x, [self._loss(surrogate, x, y)], walk.uniform_start(x, generator), progress))
        return torch.cat(found)

    def _loss(self, model: nn.Module, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> Loss:
        def loss(poisoned: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
            shortcut = cross_entropy(logits_of(model, x - poisoned), labels, reduction="none")
            hidden = -log_softmax(logits_of(model, poisoned), 1).mean(1)  # KL(u || .) but for a constant
            return self.balance * shortcut + (1 - self.balance) * hidden

        return loss

    def _trained(
        self,
        images: UInt8[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator,
        progress: Progress,
    ) -> nn.Module:
        pixels, k = images[0].numel(), self.num_classes
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            layers = nn.Linear(pixels, k, bias=False), nn.Linear(k, k, bias=False)
        model = nn.Sequential(nn.Flatten(), *layers).to(images.device)
        optimizer = torch.optim.SGD(model.parameters(), 0.003, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        progress.begin("surrogate", self.epochs * -(-len(images) // _BATCH))
        with torch.enable_grad():
            for _ in range(self.epochs):
                for part in torch.randperm(len(images), generator=generator).split(_BATCH):
                    optimizer.zero_grad(set_to_none=True)
                    cross_entropy(model(images[part].float() / 255), labels[part]).backward()
                    optimizer.step()
                    progress.step()
                schedule.step()
        return model
