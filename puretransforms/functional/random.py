"""Noise keyed by sample: the draw of one image depends on ``(seed, sample, step)`` alone.

Never on its batch, its place in it, the number of workers, or a resumed run. Each ``(seed, sample, step)`` names one
SplitMix64 stream (Steele, Lea & Flood, OOPSLA 2014): word ``i`` of it is ``mix(start + (i + 1) * GAMMA)``, so all
words of all samples are computed at once. Integer arithmetic only, hence bit-equal on every device; normal draws go
through ``log`` and ``cos`` and agree between devices to float rounding.
"""

import math
from collections.abc import Iterator
from itertools import repeat

import torch

from .shapes import Float, Int, Tensor


def _signed(value: int) -> int:
    """The int64 with the same bits as the unsigned 64-bit ``value``."""
    return value - (1 << 64) if value >= 1 << 63 else value


GAMMA = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)
_STEP_SALT = _signed(0xD1B54A32D192ED03)
_CHUNK = 1 << 17  # int64 words worked on at a time: a megabyte, so that the passes of the mixer stay in a cache


def _xor_shift_(z: Tensor, bits: int, scratch: Tensor) -> Tensor:
    """``z ^= z >>> bits`` in place; torch shifts int64 arithmetically, the mask makes it logical."""
    torch.bitwise_right_shift(z, bits, out=scratch)
    scratch.bitwise_and_((1 << (64 - bits)) - 1)
    return z.bitwise_xor_(scratch)


def mix64_(z: Tensor, scratch: Tensor | None = None) -> Tensor:
    """SplitMix64's finaliser (Stafford's variant 13) on int64 ``z`` of any shape, in place."""
    scratch = torch.empty_like(z) if scratch is None else scratch
    _xor_shift_(z, 30, scratch).mul_(_MULTIPLIERS[0])
    _xor_shift_(z, 27, scratch).mul_(_MULTIPLIERS[1])
    return _xor_shift_(z, 31, scratch)


def _mix_int(z: int) -> int:
    """:func:`mix64_` of one Python int, without a tensor that a GPU would have to wait for."""
    mask = (1 << 64) - 1
    z &= mask
    z = (z ^ (z >> 30)) * (_MULTIPLIERS[0] & mask) & mask
    z = (z ^ (z >> 27)) * (_MULTIPLIERS[1] & mask) & mask
    return _signed(z ^ (z >> 31))


def _per_word(dtype: torch.dtype) -> int:
    return 8 // dtype.itemsize


class KeyedNoise:
    """The random numbers of a batch of samples; a slice of it is the noise of that slice of the batch.

    Args:
        seed: any int; a tensor of one inside a graph, where no Python int can be drawn.
        samples: int64 ``[B]``, one identity per image (dataset index, content hash, ...), on the device to draw on.
    """

    def __init__(self, seed: int | Tensor, samples: Int[Tensor, " b"]):
        if isinstance(seed, Tensor):
            root: Tensor | int = mix64_((seed.to(samples.device) & (1 << 63) - 1) + GAMMA)
        else:
            root = _mix_int((seed & (1 << 63) - 1) + GAMMA)
        self.keys = mix64_(mix64_(samples.to(torch.int64) * GAMMA).bitwise_xor_(root))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice | Tensor) -> "KeyedNoise":
        return self._with(self.keys[rows])

    def to(self, device: torch.device) -> "KeyedNoise":
        """The same noise, drawn on another device."""
        return self if device == self.keys.device else self._with(self.keys.to(device))

    def derived(self, number: int) -> "KeyedNoise":
        """Independent noise for the same samples: stream ``number`` of a chain; 0 is this one."""
        return self if number == 0 else self._with(mix64_(self.keys + _mix_int(number * GAMMA)))

    def _with(self, keys: Tensor) -> "KeyedNoise":
        other = object.__new__(KeyedNoise)
        other.keys = keys
        return other

    def words(self, step: int, n: int) -> Int[Tensor, "b n"]:
        """``[B, n]`` int64, all 64 bits random."""
        words = torch.empty(len(self), n, dtype=torch.int64, device=self.keys.device)
        rows = len(self) if words.is_cuda else _CHUNK // max(n, 1)
        for _ in self._mix_pieces(step, n, max(rows, 1), words):
            pass
        return words

    def bits(self, step: int, n: int, dtype: torch.dtype = torch.int32) -> Int[Tensor, "b n"]:
        """``[B, n]`` uniform over every value of an integer ``dtype`` (int8 to int64)."""
        return self.words(step, -(-n // _per_word(dtype))).view(dtype)[:, :n]

    def bit_pieces(self, step: int, n: int, dtype: torch.dtype, rows: int) -> Iterator[Int[Tensor, "r n"]]:
        """:meth:`bits` of ``rows`` samples at a time, in a buffer that the next piece overwrites."""
        words = -(-n // _per_word(dtype))
        buffer = torch.empty(min(rows, len(self)), words, dtype=torch.int64, device=self.keys.device)
        exact = words * _per_word(dtype) == n
        for piece in self._mix_pieces(step, words, rows, buffer):
            yield piece.view(dtype) if exact else piece.view(dtype)[:, :n]

    def _mix_pieces(self, step: int, n: int, rows: int, out: Tensor) -> Iterator[Tensor]:
        """The words of ``rows`` samples at a time, in their rows of ``out``, or if it is smaller in the first."""
        starts = mix64_(self.keys + _mix_int(step * GAMMA + _STEP_SALT))[:, None]
        counters = torch.arange(1, n + 1, device=starts.device) * GAMMA
        scratch = torch.empty(min(rows, len(starts)), n, dtype=torch.int64, device=starts.device)
        places = out.split(rows) if len(out) == len(starts) else repeat(out)
        for part, place in zip(starts.split(rows), places, strict=False):
            if len(part) < len(scratch):  # the last; slicing every time would cost as much as a pass
                place, scratch = place[: len(part)], scratch[: len(part)]
            yield mix64_(torch.add(part, counters, out=place), scratch)

    def uniform(self, step: int, *shape: int) -> Float[Tensor, "b ..."]:
        """``[B, *shape]`` float32, uniform on the 2**24 multiples of 2**-24 in ``[0, 1)``."""
        bits = self.bits(step, math.prod(shape))
        return (bits >> 8).bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24).view(len(self), *shape)

    def normal(self, step: int, *shape: int) -> Float[Tensor, "b ..."]:
        """``[B, *shape]`` float32 standard normal, by Box-Muller; the largest magnitude is 6.56."""
        n = math.prod(shape)
        pairs = self.bits(step, 2 * (-(-n // 2))).view(len(self), -1, 2)
        return _box_muller(pairs[..., 0], pairs[..., 1], shape)


class NormalStream:
    """:meth:`KeyedNoise.normal` of one step after the other from tensors alone, as a graph needs it that is built once.

    :meth:`normal` compiles and can be captured: the step that it draws for is held in a tensor, never in Python.
    The draws are those of :class:`KeyedNoise`, bit by bit as far as they are integers.

    Args:
        rows: samples, ``B``.
        shape: of one draw.
        device: of all tensors.
    """

    def __init__(self, rows: int, shape: tuple[int, ...], device: torch.device) -> None:
        self.shape = tuple(shape)
        self.keys = torch.zeros(rows, dtype=torch.int64, device=device)
        self.phase = torch.zeros((), dtype=torch.int64, device=device)
        self.counters = torch.arange(1, -(-math.prod(self.shape) // 2) + 1, device=device) * GAMMA

    def seek(self, noise: KeyedNoise, step: int) -> None:
        """Go to ``step`` of ``noise``, in place; rows of which ``noise`` has none draw something."""
        self.keys[: len(noise)].copy_(noise.keys)
        self.phase.fill_(_signed((step * GAMMA + _STEP_SALT) & (1 << 64) - 1))

    def advance(self) -> None:
        """Go to the next step, in place."""
        self.phase.add_(GAMMA)

    def normal(self) -> Float[Tensor, "b ..."]:
        """``[B, *shape]`` float32 standard normal, at the step where the stream stands."""
        starts = mix64_(self.keys + mix64_(self.phase.clone()))
        words = mix64_(starts[:, None] + self.counters)
        return _box_muller(words, words >> 32, self.shape)


def _box_muller(radius: Tensor, angle: Tensor, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
    """``[B, *shape]`` from the lower 31 bits of the integers ``radius`` and the signed 32 bits of ``angle``."""
    radius = radius.bitwise_and(0x7FFFFFFF).to(torch.float32).add_(1.0).mul_(2.0**-31)  # (0, 1]
    radius = radius.log_().mul_(-2.0).sqrt_()
    angle = angle.to(torch.float32).mul_(2 * math.pi * 2.0**-32)
    draws = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return draws.flatten(1)[:, : math.prod(shape)].reshape(len(radius), *shape)


def content_ids(images: Tensor) -> Int[Tensor, " b"]:
    """A 64-bit identity of each image from its pixels at 8 bits and its shape.

    Args:
        images: ``[B, C, H, W]``, uint8, or float in ``[0, 1]`` (a float image and its uint8 twin get the same id).
    """
    pixels = images if images.dtype == torch.uint8 else images.mul(255).round().clamp(0, 255).to(torch.uint8)
    flat = torch.nn.functional.pad(pixels.flatten(1), (0, -pixels[0].numel() % 8)).contiguous()
    words = flat.view(torch.int64)
    counters = torch.arange(1, words.shape[1] + 1, device=words.device) * GAMMA
    channels, height, width = images.shape[1:]
    shape = torch.tensor([(channels << 40) + (height << 20) + width], device=words.device)
    return mix64_(mix64_(words + counters).sum(1) + shape)
