"""LSP: linearly separable synthetic perturbations (Yu et al., "Availability Attacks Create Shortcuts", KDD 2022).

arXiv 2111.00898. Features ``z = n A_y + 10 v_y`` with ``n ~ N(0, I)``, a mixing matrix ``A_c ~ U(-1, 1)`` and a vertex
``v_c`` of the cube ``{-1, 1}^d`` for each class: what scikit-learn's ``make_classification`` draws. They become the
colours of square patches, and the resulting picture is scaled to a fixed length.
"""

import numpy as np
import torch

from ...functional.checks import number, whole
from ...functional.perturbation import rescale
from ...functional.random import KeyedNoise
from ...functional.shapes import Float, Images, Labels, Tensor
from ...registry import register
from ..base import Poison

SEPARATION = 10


@register("lsp")
class LSP(Poison):
    """Add a random mosaic of coloured patches, drawn for each image around the mosaic of its class.

    One linear layer separates the classes by the mosaic alone. Its L2 norm is ``epsilon * sqrt(C H W)``: 1.304 at 32
    pixels, although single values reach 17/255.

    Args:
        epsilon: root mean square of the perturbation in pixel units (norm ``"rms"``).
        patch_size: side of a patch in pixels; 8 at 32 pixels, 32 at 224.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`; the authors truncate.
    """

    epsilon: float
    norm = "rms"

    def __init__(
        self,
        *,
        epsilon: float = 6 / 255,
        patch_size: int = 8,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "trunc",
    ) -> None:
        super().__init__(num_classes=num_classes, seed=seed, quantize=quantize)
        self.epsilon = number("epsilon", epsilon, above=0)
        self.patch_size = whole("patch_size", patch_size, least=1)

    def feature_maps(self, channels: int, height: int, width: int) -> Float[Tensor, "k rows d"]:
        """``A_c`` with the centroid as one more row, ``[num_classes, d + 1, d]``: features are ``[n, 1]`` times it."""
        rows, columns = self._grid(height, width)
        d = channels * rows * columns
        if self.num_classes > 2**d:
            raise ValueError(
                f"expected at most {2**d} classes for {rows} x {columns} patches, got {self.num_classes}: "
                "use a smaller patch_size."
            )
        stream = np.random.RandomState(self.seed)
        vertices: dict[bytes, np.ndarray] = {}
        while len(vertices) < self.num_classes:
            vertex = stream.randint(0, 2, d)
            vertices[vertex.tobytes()] = vertex
        centroids = SEPARATION * (2.0 * np.stack(list(vertices.values())) - 1)
        mixing = stream.uniform(-1, 1, (self.num_classes, d, d))
        return torch.from_numpy(np.concatenate((mixing, centroids[:, None]), axis=1))

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.patch_size), -(-width // self.patch_size)

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        batch, channels, height, width = x.shape
        rows, columns = self._grid(height, width)
        maps = self._table(self.feature_maps, x, torch.float64)
        normal = noise.normal(0, maps.shape[2]).double()  # float64: the sums must not depend on the batch
        features = torch.cat((normal, normal.new_ones(batch, 1)), dim=1)[:, None] @ maps[labels]
        cells = features.to(x.dtype).view(batch, rows, columns, channels).permute(0, 3, 1, 2)
        p = self.patch_size
        mosaic = cells[:, :, :, None, :, None].expand(-1, -1, -1, p, -1, p).reshape(batch, channels, rows * p, -1)
        return x + rescale(mosaic[..., :height, :width], self.epsilon, "rms")
