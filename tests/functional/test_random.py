"""Keyed noise: SplitMix64 itself, the law of the keys, and the statistics of the draws."""

import pytest
import torch
from scipy import stats

from puretransforms.functional.random import GAMMA, KeyedNoise, NormalStream, content_ids, mix64_

MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    z = state & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def unmix(z: int) -> int:
    """The state whose ``splitmix64`` is ``z``."""
    z &= MASK
    z ^= (z >> 31) ^ (z >> 62)
    z = z * pow(0x94D049BB133111EB, -1, 1 << 64) & MASK
    z ^= (z >> 27) ^ (z >> 54)
    z = z * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & MASK
    return z ^ (z >> 30) ^ (z >> 60)


def test_the_mixer_is_splitmix64():
    states = [i * 0x9E3779B97F4A7C15 & MASK for i in range(1, 4)]
    assert [splitmix64(s) for s in states] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # published
    ours = mix64_(torch.arange(1, 4) * GAMMA)
    assert [int(v) & MASK for v in ours] == [splitmix64(s) for s in states]


def test_words_are_one_splitmix64_stream_for_each_sample():
    words = KeyedNoise(7, torch.arange(3)).words(2, 5)
    assert len(set(words.flatten().tolist())) == 15
    starts = [unmix(int(first)) - 0x9E3779B97F4A7C15 for first in words[:, 0]]
    for row, start in zip(words, starts, strict=True):
        assert [int(w) & MASK for w in row] == [splitmix64(start + (i + 1) * 0x9E3779B97F4A7C15) for i in range(5)]
    assert torch.equal(KeyedNoise(7, torch.arange(3)).words(2, 9)[:, :5], words), "a longer draw continues the stream"


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_a_draw_depends_on_seed_sample_and_step_alone(draw):
    samples = torch.tensor([5, 900, -3, 2**62, 0])
    noise = KeyedNoise(11, samples)
    whole = getattr(noise, draw)(4, 3, 7)
    assert whole.shape == (5, 3, 7)
    alone = torch.cat([getattr(KeyedNoise(11, samples[i : i + 1]), draw)(4, 3, 7) for i in range(5)])
    assert torch.equal(alone, whole)
    order = torch.tensor([3, 0, 4])
    assert torch.equal(getattr(KeyedNoise(11, samples[order]), draw)(4, 3, 7), whole[order])
    assert torch.equal(getattr(noise[1:3], draw)(4, 3, 7), whole[1:3])
    for other in (KeyedNoise(12, samples), KeyedNoise(11, samples + 1)):
        assert not torch.isclose(getattr(other, draw)(4, 3, 7), whole).any(dim=(1, 2)).all()
    assert not torch.equal(getattr(noise, draw)(5, 3, 7), whole)


def test_a_large_batch_equals_its_parts():
    """More words than one cache-sized chunk."""
    noise = KeyedNoise(0, torch.arange(70))
    assert torch.equal(noise.words(0, 1000)[69:], noise[69:].words(0, 1000))
    assert noise.words(0, 0).shape == (70, 0) and KeyedNoise(0, torch.arange(0)).uniform(0, 3).shape == (0, 3)


def test_the_global_generator_is_not_touched():
    state = torch.get_rng_state()
    KeyedNoise(0, torch.arange(4)).normal(0, 8)
    assert torch.equal(torch.get_rng_state(), state)


def test_uniform_moments_and_kolmogorov_smirnov():
    u = KeyedNoise(1, torch.arange(64)).uniform(0, 4096)
    assert u.min() >= 0 and u.max() < 1
    flat = u.flatten().double()
    n = len(flat)
    assert abs(flat.mean() - 0.5) < 4 / (12 * n) ** 0.5 and abs(flat.var() * 12 - 1) < 0.01
    assert stats.kstest(flat.numpy(), "uniform").pvalue > 1e-3
    first_of_each = KeyedNoise(1, torch.arange(20_000)).uniform(3, 1).flatten()  # across samples, not along a stream
    assert stats.kstest(first_of_each.numpy(), "uniform").pvalue > 1e-3
    first_of_steps = torch.cat([KeyedNoise(1, torch.tensor([8])).uniform(step, 1) for step in range(2000)]).flatten()
    assert stats.kstest(first_of_steps.numpy(), "uniform").pvalue > 1e-3


def test_normal_moments_and_kolmogorov_smirnov():
    z = KeyedNoise(2, torch.arange(64)).normal(0, 4096).flatten().double()
    n = len(z)
    assert abs(z.mean()) < 4 / n**0.5 and abs(z.std() - 1) < 0.01
    assert abs((z**3).mean()) < 0.03 and abs((z**4).mean() - 3) < 0.1
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
    assert KeyedNoise(2, torch.arange(3)).normal(0, 5).shape == (3, 5), "an odd count"


@pytest.mark.parametrize("pair", ["samples", "steps", "seeds", "shifted"])
def test_streams_are_independent(pair):
    n = 1 << 16
    a = KeyedNoise(0, torch.tensor([1])).normal(0, n)[0]
    b = {
        "samples": lambda: KeyedNoise(0, torch.tensor([2])).normal(0, n)[0],
        "steps": lambda: KeyedNoise(0, torch.tensor([1])).normal(1, n)[0],
        "seeds": lambda: KeyedNoise(1, torch.tensor([1])).normal(0, n)[0],
        "shifted": lambda: a.roll(1),
    }[pair]()
    assert abs((a * b).mean()) < 4.5 / n**0.5
    assert abs((a.abs() * b.abs()).mean() - 2 / torch.pi) < 0.02, "magnitudes too"


def test_all_pairs_of_many_samples_are_uncorrelated():
    z = KeyedNoise(3, torch.arange(200)).normal(0, 4096)
    correlation = (z @ z.T / 4096).fill_diagonal_(0)
    assert correlation.abs().max() < 6 / 64


def test_every_bit_is_fair_and_independent_of_the_sample_number():
    bits = KeyedNoise(4, torch.arange(512)).words(0, 64)
    for position in range(64):
        ones = ((bits >> position) & 1).double().mean()
        assert abs(ones - 0.5) < 5 * 0.5 / (512 * 64) ** 0.5, position


def test_integer_dtypes_share_the_words():
    noise = KeyedNoise(5, torch.arange(2))
    assert torch.equal(noise.bits(0, 8, torch.int16).view(torch.int64), noise.words(0, 2))
    assert noise.bits(0, 5, torch.int16).shape == (2, 5)


def test_content_ids_see_every_pixel_and_the_shape():
    x = torch.randint(0, 256, (6, 3, 9, 7), dtype=torch.uint8)
    ids = content_ids(x)
    assert len(set(ids.tolist())) == 6 and torch.equal(content_ids(x), ids)
    assert torch.equal(content_ids(x.float() / 255), ids), "a float twin is the same image"
    assert torch.equal(content_ids(x[2:3]), ids[2:3])
    white = torch.ones(1, 3, 4, 4)
    assert content_ids(white + 1 / 300) == content_ids(white), "an overshoot is clamped, not wrapped"
    changed = x.clone()
    changed[:, 2, 8, 6] ^= 1
    assert (content_ids(changed) != ids).all()
    assert (content_ids(x.transpose(2, 3).contiguous()) != ids).all()
    blank = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
    assert content_ids(blank) != content_ids(blank.view(1, 3, 6, 4))


@pytest.mark.parametrize("shape", [(3, 4, 4), (5,), (1, 3, 3)])
def test_a_normal_stream_draws_what_keyed_noise_draws(shape):
    noise, stream = KeyedNoise(7, torch.tensor([4, -1, 2**62])), NormalStream(5, shape, torch.device("cpu"))
    for start in (0, 3, 10**6):
        stream.seek(noise, start)
        for step in range(start, start + 3):
            assert torch.equal(stream.normal()[:3], noise.normal(step, *shape))
            stream.advance()
