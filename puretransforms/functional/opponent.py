"""An orthonormal opponent colour space: one luma axis, two chroma axes, and white noise of RGB stays white in it.

The axes are the discrete cosine transform of (R, G, B), as colour BM3D takes them (Dabov et al., ICIP 2007): grey, red
against blue, and green against both. Their length is 1, so a noise of sigma 25/255 on every RGB value is one of
25/255 on luma and on each chroma axis.
"""

import torch

from .shapes import Float, Tensor

_AXES = ((3**-0.5,) * 3, (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))


def opponent_axes(like: Tensor) -> Float[Tensor, "3 3"]:
    """Rows are the luma and the two chroma axes, on the device and in the dtype of ``like``."""
    return torch.tensor(_AXES, dtype=like.dtype, device=like.device)


def to_opponent(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """RGB to (luma, chroma, chroma)."""
    return torch.einsum("kc,bchw->bkhw", opponent_axes(images), images)


def from_opponent(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """(Luma, chroma, chroma) to RGB."""
    return torch.einsum("kc,bkhw->bchw", opponent_axes(images), images)


def per_axis(luma: Float[Tensor, " b"], chroma: Float[Tensor, " b"]) -> Float[Tensor, "b 3 1 1"]:
    """One value for each of the three axes, to multiply an opponent image with."""
    return torch.stack((luma, chroma, chroma), dim=1)[:, :, None, None]
