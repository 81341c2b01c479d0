"""Randomised corruptions to train purifiers on: every image gets a fresh key, so no key can be learned by heart.

Two kinds. A *field* is what is added to an image: ``field(noise, height, width)`` draws ``[B, 3, H, W]`` with mean
square 1 in each image, which :func:`add_field` scales to a budget, apart for luma and chroma. A *change* takes the
images themselves: ``change(images, noise)`` returns corrupted ones in ``[0, 1]``. The clean image is the answer to all.

They are randomised versions of the mechanisms of published poisons: class-wise and pixel-wise noise, LSP's mosaics,
smooth and oriented textures as error-minimising noise has them, autoregressive fields (AR), sinusoids (SIG), bright
pixels (OPS), patches (BadNets), random convolutions (CUDA), blends (Blend), warps (WaNet) and reduced levels (BPP).
All work on a whole batch at once and draw from keyed noise, so what an image gets does not depend on its batch.
"""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import conv2d, grid_sample, interpolate, pad

from .opponent import from_opponent, per_axis, to_opponent
from .random import KeyedNoise
from .shapes import Float, Int, Tensor

Field = Callable[[KeyedNoise, int, int], Tensor]
Change = Callable[[Tensor, KeyedNoise], Tensor]

CELLS = (2, 16)  # sides of a mosaic's cells in pixels
LEVELS = (4, 32)  # of an image with reduced levels
_TINY = 1e-12


class Draws:
    """Keyed noise that moves on by itself: the ``i``-th draw of a function is step ``first + i``."""

    def __init__(self, noise: KeyedNoise, first: int = 0) -> None:
        self.noise, self.step = noise, first

    def _next(self) -> int:
        self.step += 1
        return self.step - 1

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "b ..."]:
        return self.noise.uniform(self._next(), *shape).mul_(high - low).add_(low)

    def normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        return self.noise.normal(self._next(), *shape)

    def integer(self, low: int, high: int, *shape: int) -> Int[Tensor, "b ..."]:
        """Uniform over ``low .. high``, both included."""
        return self.uniform(*shape, low=float(low), high=float(high + 1)).floor_().long()

    def chance(self, probability: float, *shape: int) -> Tensor:
        return self.uniform(*shape) < probability


def unit(field: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Scale each image to mean square 1."""
    return field * field.square().mean((1, 2, 3), keepdim=True).add(_TINY).rsqrt()


def add_field(
    images: Float[Tensor, "b 3 h w"],
    field: Float[Tensor, "b 3 h w"],
    luma: Float[Tensor, " b"],
    chroma: Float[Tensor, " b"],
) -> Float[Tensor, "b 3 h w"]:
    """Add a field whose three channels are luma and chroma axes, scaled by ``luma`` and ``chroma``, in ``[0, 1]``."""
    return (images + from_opponent(field * per_axis(luma, chroma))).clamp_(0, 1)


def gaussian(noise: KeyedNoise, height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """White Gaussian noise; the expected mean square is 1, that of an image is not scaled."""
    return noise.normal(0, 3, height, width)


def signs(noise: KeyedNoise, height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """A random sign for every value of RGB, as sign-gradient poisons end in, on opponent axes."""
    return to_opponent(noise.uniform(0, 3, height, width).sub_(0.5).sign_())


def uniform(noise: KeyedNoise, height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """Uniform noise of variance 1."""
    return noise.uniform(0, 3, height, width).sub_(0.5).mul_(12**0.5)


def blocks(noise: KeyedNoise, height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """A mosaic of random colours; cells of 2 to 16 pixels, rectangular in one image of four, half of the grids off.

    An on-grid mosaic starts with a whole cell at the top left. Colours are normal, or signs in half of the images.
    """
    draws = Draws(noise)
    smallest, largest = CELLS
    sides = draws.uniform(2, low=math.log(smallest), high=math.log(largest + 1)).exp_().floor_().long()
    sides[:, 1] = torch.where(draws.chance(0.25), sides[:, 1], sides[:, 0])
    off = draws.chance(0.5)[:, None] * (draws.uniform(2) * sides).floor_().long()
    rows = (torch.arange(height, device=off.device) + off[:, :1]) // sides[:, :1]
    columns = (torch.arange(width, device=off.device) + off[:, 1:]) // sides[:, 1:]
    table = draws.normal(3, height // smallest + 2, width // smallest + 2)
    table = torch.where(draws.chance(0.5)[:, None, None, None], table.sign(), table)
    samples = torch.arange(len(table), device=off.device)[:, None, None]
    return unit(table.movedim(1, -1)[samples, rows[:, :, None], columns[:, None, :]].movedim(-1, 1))


def _frequencies(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cycles per pixel of ``rfft2``, down and across, ``[H, 1]`` and ``[1, W // 2 + 1]``."""
    down = torch.fft.fftfreq(height, device=like.device, dtype=like.dtype)[:, None]
    return down, torch.fft.rfftfreq(width, device=like.device, dtype=like.dtype)[None]


def _shaped(white: Float[Tensor, "b 3 h w"], amplitude: Float[Tensor, "b c h v"]) -> Float[Tensor, "b 3 h w"]:
    return unit(torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=white.shape[-2:]))


def _one_hue(field: Float[Tensor, "b 3 h w"], draws: Draws, probability: float) -> Float[Tensor, "b 3 h w"]:
    """In some images the first field alone, along one random direction of colour."""
    hue = draws.normal(3)
    hue = hue / hue.square().sum(1, keepdim=True).add(_TINY).sqrt()
    single = unit(field[:, :1] * hue[:, :, None, None])
    return torch.where(draws.chance(probability)[:, None, None, None], single, field)


def spectrum(noise: KeyedNoise, height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """Noise of one octave-wide band, centred from one cycle per image to the finest, oriented in half of the images.

    The amplitude is Gaussian in the logarithm of the frequency (sigma 0.35 octaves) and, where oriented, in the angle
    (sigma 5 to 30 degrees); a third of the images have one hue.
    """
    draws = Draws(noise)
    down, across = _frequencies(height, width, noise.uniform(0, 1))
    radius = (down.square() + across.square()).sqrt()
    octave = radius.clamp_min(1e-6).log2()
    lowest, highest = -math.log2(min(height, width)), -1.0
    centre = draws.uniform(1, 1, 1, low=lowest, high=highest)
    amplitude = (-0.5 * ((octave - centre) / 0.35).square()).exp() * (radius > 0)
    angle = draws.uniform(1, 1, 1, low=0.0, high=math.pi)
    spread = draws.uniform(1, 1, 1, low=5.0, high=30.0) * (math.pi / 180)
    away = torch.remainder(torch.atan2(down, across) - angle + math.pi / 2, math.pi) - math.pi / 2
    oriented = amplitude * (-0.5 * (away / spread).square()).exp()
    amplitude = torch.where(draws.chance(0.5)[:, None, None, None], oriented, amplitude) + 1e-6 * (radius > 0)
    return _one_hue(_shaped(draws.normal(3, height, width), amplitude), draws, 1 / 3)


def ar_coefficients(noise: KeyedNoise) -> Float[Tensor, "b 3 3 3"]:
    """Random coefficients as AR draws them: a value from its eight neighbours above and left, with sum 1 and no own."""
    taps = noise.normal(0, 3, 3, 3)
    taps[..., 2, 2] = 0
    total = taps.sum((2, 3), keepdim=True)
    return taps / torch.where(total.abs() < 0.5, total.sign() * 0.5 + (total == 0), total)


def autoregressive(noise: KeyedNoise, height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """A periodic texture that a random linear rule of the 3x3 window above and left all but predicts.

    Each channel has a rule of its own (:func:`ar_coefficients`); the amplitude at a frequency is that of white noise
    over ``|1 - rule|**2 + 0.03``. Its mean is 0.
    """
    taps = ar_coefficients(noise)
    down, across = _frequencies(height, width, taps)
    steps = torch.arange(2, -1, -1, device=taps.device, dtype=taps.dtype)
    turns = [(-2j * math.pi * steps[:, None] * frequency).exp() for frequency in (down[:, 0], across[0])]
    response = 1 - torch.einsum("bcuv,uh,vw->bchw", taps.to(turns[0].dtype), *turns)
    amplitude = 1 / (response.abs().square() + 0.03)
    amplitude[..., 0, 0] = 0
    field = _shaped(noise.normal(1, 3, height, width), amplitude)
    return field * field.square().mean((2, 3), keepdim=True).add(_TINY).rsqrt()


def sinusoids(noise: KeyedNoise, height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """One to three plane waves of 1 to 12 cycles per image, of any direction, phase and colour."""
    draws = Draws(noise)
    down = torch.arange(height, device=noise.keys.device, dtype=torch.float32)[:, None] / height
    across = torch.arange(width, device=noise.keys.device, dtype=torch.float32)[None] / width
    total = torch.zeros(len(noise), 3, height, width, device=noise.keys.device)
    waves = draws.integer(1, 3)
    for wave in range(3):
        cycles = draws.uniform(1, 1, low=0.0, high=math.log(12)).exp_()
        angle = draws.uniform(1, 1, low=0.0, high=2 * math.pi)
        angle = torch.where(draws.chance(0.25, 1, 1), (angle / (math.pi / 2)).round() * (math.pi / 2), angle)
        phase = 2 * math.pi * (cycles * (angle.sin() * down + angle.cos() * across) + draws.uniform(1, 1))
        total += (wave < waves)[:, None, None, None] * draws.normal(3, 1, 1) * phase.sin()[:, None]
    return unit(total)


def bright_pixels(images: Float[Tensor, "b 3 h w"], noise: KeyedNoise) -> Float[Tensor, "b 3 h w"]:
    """One to four single pixels set to a colour whose channels are mostly 0 or 1."""
    draws = Draws(noise)
    batch, _, height, width = images.shape
    out, samples = images.clone(), torch.arange(batch, device=images.device)
    count = torch.where(draws.chance(0.6), torch.ones_like(samples), draws.integer(1, 4))
    for index in range(4):
        row, column = draws.integer(0, height - 1), draws.integer(0, width - 1)
        color = draws.uniform(3)
        color = torch.where(draws.chance(0.7)[:, None], color.round(), color)
        kept = out[samples, :, row, column]
        out[samples, :, row, column] = torch.where((index < count)[:, None], color, kept)
    return out


def patches(images: Float[Tensor, "b 3 h w"], noise: KeyedNoise) -> Float[Tensor, "b 3 h w"]:
    """A patch of 2 to 5 pixels a side at a random place: one colour, a checkerboard of two, or random pixels."""
    draws = Draws(noise)
    height, width = images.shape[-2:]
    side = draws.integer(2, 5)
    top = (draws.uniform() * (height - side + 1)).floor_().long()
    left = (draws.uniform() * (width - side + 1)).floor_().long()
    row = torch.arange(height, device=images.device) - top[:, None]
    column = torch.arange(width, device=images.device) - left[:, None]
    down = (row >= 0) & (row < side[:, None])
    across = (column >= 0) & (column < side[:, None])
    inside = (down[:, :, None] & across[:, None, :])[:, None]
    color = draws.uniform(3, 2).mul_(1.6).sub_(0.3).clamp_(0, 1)[..., None, None]
    board = ((row[:, :, None] + column[:, None, :]) % 2 == 0)[:, None]
    kind = draws.integer(0, 2)[:, None, None, None]
    checks = torch.where(board | (kind == 0), color[:, :, 0], color[:, :, 1])
    pattern = torch.where(kind == 2, draws.uniform(3, height, width).round_(), checks)
    return torch.where(inside, pattern, images)


def convolutions(images: Float[Tensor, "b 3 h w"], noise: KeyedNoise) -> Float[Tensor, "b 3 h w"]:
    """A random 3x3 or 5x5 filter of each image, or of each channel: a 1 in the centre, and less than that around it.

    Neighbours are ``U(0, p)`` with ``p ~ U(0.05, 0.5)`` for 3x3, a third of it for 5x5. Borders are zeros or
    reflected. The result is scaled to the image's own maximum, to its own mean, or (clamped) not at all.
    """
    draws = Draws(noise)
    batch, channels, height, width = images.shape
    kernel = draws.uniform(channels, 5, 5)
    kernel = torch.where(draws.chance(0.3)[:, None, None, None], kernel, kernel[:, :1])
    small = draws.chance(0.7)[:, None, None, None]
    ring = torch.zeros(5, 5, dtype=torch.bool, device=images.device)
    ring[1:4, 1:4] = True
    limit = draws.uniform(1, 1, 1, low=0.05, high=0.5)
    kernel = torch.where(small, kernel * limit * ring, kernel * (limit / 3))
    kernel[:, :, 2, 2] = 1
    flat = images.reshape(1, batch * channels, height, width)
    both = [
        conv2d(extended, kernel.reshape(-1, 1, 5, 5).to(images.dtype), groups=batch * channels).view_as(images)
        for extended in (pad(flat, (2, 2, 2, 2)), pad(flat, (2, 2, 2, 2), mode="reflect"))
    ]
    out = torch.where(draws.chance(0.5)[:, None, None, None], both[0], both[1])
    by_max = images.amax((1, 2, 3), keepdim=True) / out.amax((1, 2, 3), keepdim=True).clamp_min(_TINY)
    by_mean = 1 / kernel.sum((2, 3), keepdim=True)
    kind = draws.integer(0, 3)[:, None, None, None]
    scale = torch.where(kind == 0, torch.ones_like(by_mean), torch.where(kind == 1, by_mean, by_max))
    return (out * scale).clamp_(0, 1)


def blends(images: Float[Tensor, "b 3 h w"], noise: KeyedNoise) -> Float[Tensor, "b 3 h w"]:
    """Mixed by 5 to 25 % with a smooth or a noisy random picture of its own."""
    draws = Draws(noise)
    smooth = interpolate(draws.uniform(3, 5, 5), images.shape[-2:], mode="bicubic", align_corners=False).clamp_(0, 1)
    noisy = draws.uniform(3, *images.shape[-2:])
    other = torch.where(draws.chance(0.5)[:, None, None, None], smooth, noisy).to(images.dtype)
    return torch.lerp(images, other, draws.uniform(1, 1, 1, low=0.05, high=0.25).to(images.dtype))


def warps(images: Float[Tensor, "b 3 h w"], noise: KeyedNoise) -> Float[Tensor, "b 3 h w"]:
    """A smooth elastic warp, the bicubic of a 4x4 field of displacements of 0.3 to 1.2 pixels on average."""
    draws = Draws(noise)
    height, width = images.shape[-2:]
    flow = interpolate(draws.normal(2, 4, 4), (height, width), mode="bicubic", align_corners=True)
    flow = flow / flow.abs().mean((1, 2, 3), keepdim=True).clamp_min(_TINY)
    flow = flow * draws.uniform(1, 1, 1, low=0.3, high=1.2)
    down = torch.arange(height, device=images.device)[:, None] + flow[:, 0]
    across = torch.arange(width, device=images.device) + flow[:, 1]
    grid = torch.stack((across * (2 / max(width - 1, 1)) - 1, down * (2 / max(height - 1, 1)) - 1), dim=-1)
    return grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=True).clamp_(0, 1)


def reduced_levels(images: Float[Tensor, "b 3 h w"], noise: KeyedNoise) -> Float[Tensor, "b 3 h w"]:
    """Rounded to 4 to 32 levels per channel, after uniform dithering of half a level in two images of three."""
    draws = Draws(noise)
    low, high = LEVELS
    steps = draws.integer(low, high, 1, 1, 1).to(images.dtype) - 1
    dither = draws.uniform(*images.shape[1:]).sub_(0.5) * draws.chance(2 / 3)[:, None, None, None]
    return (images * steps + dither.to(images.dtype)).round_().div_(steps).clamp_(0, 1)


def color_shifts(images: Float[Tensor, "b 3 h w"], noise: KeyedNoise) -> Float[Tensor, "b 3 h w"]:
    """One offset of up to 16/255 for each channel of an image."""
    return (images + noise.uniform(0, 3, 1, 1).sub_(0.5).mul_(32 / 255).to(images.dtype)).clamp_(0, 1)


FIELDS: dict[str, Field] = {
    "gaussian": gaussian,
    "signs": signs,
    "uniform": uniform,
    "blocks": blocks,
    "spectrum": spectrum,
    "autoregressive": autoregressive,
    "sinusoids": sinusoids,
}
CHANGES: dict[str, Change] = {
    "bright_pixels": bright_pixels,
    "patches": patches,
    "convolutions": convolutions,
    "blends": blends,
    "warps": warps,
    "reduced_levels": reduced_levels,
    "color_shifts": color_shifts,
}
