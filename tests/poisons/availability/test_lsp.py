import numpy as np
import pytest
import torch

from puretransforms.functional.perturbation import magnitude
from puretransforms.poisons.availability.lsp import LSP


def deltas(poison, n=400, size=32, labels=None):
    x = torch.full((n, 3, size, size), 0.5)
    labels = torch.arange(n) % 10 if labels is None else labels
    return poison(x, labels, torch.arange(n))[0] - 0.5


def test_the_length_is_the_published_one_and_the_amplitude_is_larger_than_the_mean():
    delta = deltas(LSP(quantize=None))
    torch.testing.assert_close(
        magnitude(delta, "l2"), torch.full((400,), 1.3041, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert 12 / 255 < delta.abs().max() < 19 / 255


@pytest.mark.parametrize(("size", "patch", "cells"), [(32, 8, 4), (32, 12, 3), (20, 8, 3)])
def test_the_mosaic_has_square_patches_and_is_cropped_at_the_right_and_below(size, patch, cells):
    delta = deltas(LSP(patch_size=patch, quantize=None), 10, size)
    corners = delta[:, :, ::patch, ::patch]
    assert corners.shape[-2:] == (cells, cells)
    expected = corners.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., :size, :size]
    assert delta.equal(expected)
    assert corners[0].flatten().unique().numel() == 3 * cells**2


def test_one_linear_layer_separates_the_classes_of_unseen_images():
    x = deltas(LSP(), 600).view(600, 3, 4, 8, 4, 8).mean((3, 5)).flatten(1)
    labels = torch.arange(600) % 10
    design = torch.cat((x, torch.ones(600, 1)), 1).double()
    weights = torch.linalg.lstsq(
        design[:400], torch.eye(10, dtype=torch.float64)[labels[:400]], driver="gelsd"
    ).solution
    accuracy = (design[400:] @ weights).argmax(1).eq(labels[400:]).double().mean()
    assert accuracy > 0.98


def test_features_follow_the_law_of_make_classification():
    """Class mean = centroid, class covariance = A^T A, as scikit-learn's generator has them."""
    poison = LSP(num_classes=3)
    maps = poison.feature_maps(3, 32, 32)
    assert maps.shape == (3, 49, 48)
    assert maps[:, :48].abs().max() < 1 and maps[:, :48].std() == pytest.approx(3**-0.5, rel=0.02)
    assert set(maps[:, 48].flatten().tolist()) == {-10.0, 10.0}
    delta = deltas(LSP(num_classes=3, quantize=None), 3000, labels=torch.ones(3000, dtype=torch.int64))
    features = delta[:, :, ::8, ::8].permute(0, 2, 3, 1).reshape(3000, 48).double()  # row, column, channel
    length = (maps[1, :48].square().sum() + maps[1, 48].square().sum()).sqrt() / features.norm(dim=1).mean()
    features = features * length  # undo the rescaling on average
    cosine = torch.nn.functional.cosine_similarity(features.mean(0), maps[1, 48], dim=0)
    assert cosine > 0.98
    covariance = torch.cov(features.T)
    expected = maps[1, :48].T @ maps[1, :48]
    flat = torch.nn.functional.cosine_similarity(covariance.flatten(), expected.flatten(), dim=0)
    assert flat > 0.93


def test_centroids_are_distinct_even_where_the_cube_is_small():
    vertices = LSP(num_classes=8, patch_size=32).feature_maps(3, 32, 32)[:, 3]
    assert vertices.unique(dim=0).shape == (8, 3)
    with pytest.raises(ValueError, match="at most 8 classes for 1 x 1 patches, got 9: use a smaller patch_size"):
        LSP(num_classes=9, patch_size=32).feature_maps(3, 32, 32)


def test_refusals():
    with pytest.raises(ValueError, match="patch_size"):
        LSP(patch_size=0)
    with pytest.raises(ValueError, match="epsilon"):
        LSP(epsilon=-1.0)


def test_the_seed_of_the_data_set_is_private():
    np.random.seed(0)  # noqa: NPY002
    a = LSP(seed=5).feature_maps(3, 16, 16)
    np.random.seed(1)  # noqa: NPY002
    assert a.equal(LSP(seed=5).feature_maps(3, 16, 16))
