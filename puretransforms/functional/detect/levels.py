"""How many of the 256 levels an image uses: few, where colour depth was reduced (BppAttack, Wang et al., CVPR 2022)."""

import torch

from ..shapes import Float, Tensor, UInt8


def level_occupancy(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Distinct levels over the span from the darkest to the brightest, 0 to 1; 1 for a span below 64 levels.

    A photograph of 32 x 32 pixels comes to 0.6 and more; eight levels over the whole range to 0.03.
    """
    flat = pixels.flatten(1).long()
    used = torch.zeros(len(flat), 256, dtype=torch.bool, device=flat.device).scatter_(1, flat, True)
    span = flat.amax(1) - flat.amin(1) + 1
    return torch.where(span < 64, 1.0, used.sum(1) / span)
