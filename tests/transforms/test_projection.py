"""Orthogonal projection: a projection, of rank K, that takes away what a linear classifier could see."""

import pytest
import torch

from puretransforms.errors import LabelError, NoImageError, NotFittedError
from puretransforms.poisons.availability.noise import ClasswiseNoise
from puretransforms.transforms.projection import OrthogonalProjection


def data(n: int = 240, side: int = 8, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(30, 220, (n, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % classes
    return ClasswiseNoise(num_classes=classes, epsilon=16 / 255)(images, labels)


def fitted() -> tuple[OrthogonalProjection, torch.Tensor, torch.Tensor]:
    images, labels = data()
    return OrthogonalProjection(num_classes=4, seed=0, epochs=40).fit((images, labels)), images, labels


def test_it_is_an_orthogonal_projection() -> None:
    project, images, _ = fitted()
    assert project.basis.shape == (192, 4)
    assert torch.allclose(project.basis.T @ project.basis, torch.eye(4), atol=1e-5)
    x = images / 255
    once = project(x)
    removed = (x - once).flatten(1)
    assert torch.linalg.matrix_rank(removed) == 4
    assert torch.allclose(removed @ once.flatten(1).T, torch.zeros(len(x), len(x)), atol=1e-3)
    assert once.min() < 0, "floats are not clamped"


def test_a_fitted_one_is_saved_and_loaded(tmp_path) -> None:
    project, images, _ = fitted()
    project.save_pretrained(tmp_path)
    assert torch.equal(OrthogonalProjection.from_pretrained(tmp_path)(images), project(images))


def test_class_wise_noise_is_removed_and_other_noise_stays() -> None:
    project, images, labels = fitted()
    field = torch.stack([(images[labels == k] / 255).mean(0) for k in range(4)])
    field = field - field.mean(0)
    left = field - field.flatten(1).matmul(project.basis).matmul(project.basis.T).view_as(field)
    assert left.norm() < 0.5 * field.norm()
    noise = torch.randn(50, 192, generator=torch.Generator().manual_seed(5))
    assert (noise @ project.basis).norm() < 0.3 * noise.norm()


def test_8_bit_images_come_back_as_such() -> None:
    project, images, _ = fitted()
    expected = project(images / 255).clamp(0, 1).mul(255).round()
    assert (project(images).float() - expected).abs().max() <= 1


def test_the_fit_follows_the_seed_and_leaves_the_generator_alone() -> None:
    images, labels = data()
    state = torch.get_rng_state()
    first, again, other = (
        OrthogonalProjection(num_classes=4, seed=s, batch_size=32).fit((images, labels)) for s in (1, 1, 2)
    )
    assert torch.equal(first.basis, again.basis) and not torch.equal(first.basis, other.basis)
    assert torch.equal(torch.get_rng_state(), state)


def test_refusals() -> None:
    images, labels = data()
    with pytest.raises(NotFittedError, match=r"call fit\(dataset\)"):
        OrthogonalProjection()(images)
    with pytest.raises(LabelError, match="labels from 0 to 1, got 3"):
        OrthogonalProjection(num_classes=2).fit((images, labels))
    project, _, _ = fitted()
    with pytest.raises(NoImageError, match="images of 192 values"):
        project(torch.rand(2, 3, 9, 9))
    with pytest.raises(ValueError, match="lr as a finite number above 0"):
        OrthogonalProjection(lr=0.0)
