"""Images of any size for networks that halve them."""

from torch.nn.functional import pad

from .shapes import Float, Tensor


def whole(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c i j"]:
    """Repeat the last row and column until ``multiple`` divides each side, so that no pixel falls out of a halving."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
