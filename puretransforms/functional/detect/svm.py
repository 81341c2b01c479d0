"""A linear support vector machine for a few features (squared hinge, Fan et al., LIBLINEAR, JMLR 2008, Eq. 2)."""

import torch

from ..shapes import Bool, Float, Tensor


def fit_linear_svm(
    features: Float[Tensor, "n d"], positive: Bool[Tensor, " n"], *, penalty: float = 1.0, steps: int = 200
) -> tuple[Float[Tensor, " d"], float]:
    """``(w, b)`` that minimise ``|w|^2 / 2 + C sum max(0, 1 - s_i (w x_i + b))^2`` over samples of sign ``s_i``.

    ``x w + b > 0`` says positive. The classes are balanced by weight, ``b`` is not penalised. Convex and smooth, so
    L-BFGS finds the one minimum.
    """
    x, s = features.double(), torch.where(positive, 1.0, -1.0).double()
    share = positive.double().mean().clamp(1e-9, 1 - 1e-9)
    weight = torch.where(positive, 0.5 / share, 0.5 / (1 - share)) * penalty
    parameters = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def loss() -> Tensor:
        optimiser.zero_grad()
        margin = s * (x @ parameters[:-1] + parameters[-1])
        value = parameters[:-1].square().sum() / 2 + (weight * (1 - margin).clamp_min(0).square()).sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    w, b = parameters.detach()[:-1].to(features.dtype), float(parameters.detach()[-1])
    return w, b
