import pytest
import torch

from puretransforms.functional.perturbation import excess, magnitude, quantize, rescale, settle


def batch(n=4, scale=1.0, seed=0):
    return scale * torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_norms_of_a_known_perturbation():
    delta = torch.zeros(1, 3, 4, 4)
    delta[0, :, 1, 2] = torch.tensor([3.0, -4.0, 0.0])
    assert magnitude(delta, "linf").item() == 4
    assert magnitude(delta, "l2").item() == 5
    assert magnitude(delta, "rms").item() == pytest.approx(5 / 48**0.5)
    assert magnitude(delta, "l0").item() == 1


@pytest.mark.parametrize("norm", ["linf", "l2", "rms"])
def test_rescale_gives_the_length_and_keeps_the_direction_and_zero(norm):
    delta = torch.cat([batch(3), torch.zeros(1, 3, 8, 8)])
    out = rescale(delta, 0.25, norm)
    torch.testing.assert_close(magnitude(out[:3], norm), torch.full((3,), 0.25, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.cosine_similarity(out[:3].flatten(1), delta[:3].flatten(1)), torch.ones(3))
    assert not out[3].any()


def test_every_8_bit_level_survives_each_quantisation():
    levels = torch.arange(256)
    for dtype in (torch.float32, torch.float64):
        x = (levels.to(dtype) / 255).view(1, 1, 16, 16)
        for mode in ("round", "trunc", None):
            assert torch.equal(quantize(x, mode), x)


def test_quantisation_rounds_truncates_and_clamps():
    x = torch.tensor([-0.2, 0.0, 1.4 / 255, 1.6 / 255, 1.0, 1.3])
    torch.testing.assert_close(quantize(x, "round") * 255, torch.tensor([0.0, 0, 1, 2, 255, 255]))
    torch.testing.assert_close(quantize(x, "trunc") * 255, torch.tensor([0.0, 0, 1, 1, 255, 255]))
    torch.testing.assert_close(quantize(x, None), x.clamp(0, 1))
    assert x[0] == -0.2 * torch.ones(())  # the input is left alone


@pytest.mark.parametrize("mode", ["round", "trunc"])
@pytest.mark.parametrize("epsilon", [8 / 255, 0.03, 1 / 255])
def test_settling_keeps_an_linf_budget_where_rounding_alone_breaks_it(mode, epsilon):
    clean = torch.randint(0, 256, (64, 3, 8, 8), generator=torch.Generator().manual_seed(1)) / 255
    poisoned = clean + epsilon * batch(64).sign()
    settled = settle(poisoned, clean, mode, epsilon)
    assert (magnitude(settled - clean, "linf") <= epsilon + 1e-6).all()
    assert torch.equal(settled, quantize(settled, "round"))
    # as far as the grid allows: epsilon rounded down to a whole level
    free = (clean > epsilon) & (clean < 1 - epsilon)
    moved = ((settled - clean).abs() * 255).round()[free]
    assert (moved == int(epsilon * 255 + 1e-6)).float().mean() > 0.4
    if mode == "trunc" and epsilon == 8 / 255:
        assert (magnitude(quantize(poisoned, mode) - clean, "linf") > epsilon + 1e-3).any()


def test_excess_tells_inside_from_outside():
    clean = torch.full((1, 3, 8, 8), 0.4).mul(255).round().div(255)
    for norm, epsilon in (("linf", 8 / 255), ("l2", 1.0), ("rms", 6 / 255)):
        inside = clean + rescale(batch(1), epsilon, norm)
        outside = clean + rescale(batch(1), 2 * epsilon, norm)
        assert (
            excess(settle(inside, clean, "round", epsilon if norm == "linf" else None), clean, epsilon, norm, "round")
            <= 0
        )
        assert excess(quantize(outside, "round"), clean, epsilon, norm, "round") > 0
    one = clean.clone()
    one[..., 3, 3] = 1
    assert excess(one, clean, 1.0, "l0", "trunc") == 0
    one[..., 4, 4] = 1
    assert excess(one, clean, 1.0, "l0", "trunc") == 1


def test_refusals_name_what_was_expected():
    with pytest.raises(ValueError, match="linf, l2, rms, l0"):
        magnitude(batch(1), "l7")
    with pytest.raises(ValueError, match='"round", "trunc" or None'):
        quantize(batch(1), "floor")
