import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import v2

from puretransforms.errors import LabelError, NoImageError, RangeError
from puretransforms.poisons.availability.noise import ClasswiseNoise, SamplewiseNoise
from puretransforms.poisons.base import Poison


class Brighten(Poison):
    """Half a level more for each class: what quantisation does shows."""

    def perturb(self, x, labels, noise):
        return x + 0.61 / 255 * labels[:, None, None, None]

    def eligible(self, labels, noise=None):
        return labels != 1

    def relabel(self, labels):
        return labels + 2


@pytest.fixture
def images():
    return torch.randint(0, 250, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_ineligible_samples_keep_pixels_and_label_and_others_get_theirs(images):
    labels = torch.tensor([0, 1, 2, 1, 5, 7])
    poisoned, targets = Brighten()(images, labels)
    assert targets.tolist() == [2, 1, 4, 1, 7, 9]
    steps = (poisoned.int() - images.int()).flatten(1).unique(dim=1).flatten().tolist()
    assert steps == [0, 0, 1, 0, 3, 4]  # 0, -, 1.22, -, 3.05, 4.27 levels
    assert Brighten(quantize="trunc")(images, labels)[0].equal(poisoned)
    steps = (Brighten(quantize=None)(images / 255, labels)[0] * 255 - images)[2]
    torch.testing.assert_close(steps, torch.full_like(steps, 1.22), atol=1e-3, rtol=0)


def test_without_an_index_the_pixels_key_the_draw(images):
    poison, labels = SamplewiseNoise(), torch.zeros(6, dtype=torch.int64)
    by_content = poison(images, labels)[0]
    assert by_content.equal(poison(images.flip(0), labels)[0].flip(0))
    assert not by_content.equal(poison(images, labels, torch.arange(6))[0])
    twins = images[:1].expand(2, -1, -1, -1)
    a, b = poison(twins, labels[:2])[0]
    assert a.equal(b)
    a, b = poison(twins, labels[:2], torch.tensor([4, 5]))[0]
    assert not a.equal(b)


def test_labels_keep_their_type_shape_and_dtype(images):
    poison = ClasswiseNoise()
    assert poison(images[0], 3)[1] == 3 and type(poison(images[0], 3)[1]) is int
    assert type(poison(images[0], np.int64(3))[1]) is int
    for labels in (torch.tensor(3), torch.tensor(3, dtype=torch.uint8)):
        out = poison(images[0], labels)[1]
        assert out.shape == () and out.dtype == labels.dtype and out == 3
    labels = torch.arange(6, dtype=torch.int32).view(2, 3)
    poisoned, out = poison(images.view(2, 3, 3, 8, 8), labels)
    assert out.equal(labels) and out.dtype == torch.int32
    assert poisoned.view(6, 3, 8, 8).equal(poison(images, labels.flatten())[0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (10, r"labels from 0 to 9, got 10.*num_classes"),
        (-1, r"got -1"),
        (3.0, r"int or an integer tensor, got float"),
        (True, r"got bool"),
        (torch.tensor(3.0), r"integer dtype, got torch.float32"),
        (torch.tensor([3]), r"shape \[\].*got \[1\]"),
        (torch.eye(10, dtype=torch.int64)[3], r"argmax"),
        ([3], r"got list"),
    ],
)
def test_wrong_labels_are_refused_with_the_fix(images, labels, message):
    with pytest.raises(LabelError, match=message):
        ClasswiseNoise()(images[0], labels)


def test_missing_labels_and_wrong_indices_are_refused(images):
    poison = ClasswiseNoise()
    with pytest.raises(LabelError, match="without labels"):
        poison(images)
    with pytest.raises(LabelError, match="3 items without labels"):
        poison((images, torch.zeros(6, dtype=torch.int64), 3))
    with pytest.raises(LabelError, match="one int: pass an integer tensor"):
        poison(images, 3)
    with pytest.raises(LabelError, match=r"index of shape \[6\]"):
        poison(images, torch.zeros(6, dtype=torch.int64), torch.arange(5))


def test_wrong_images_are_refused_with_the_fix(images):
    poison = ClasswiseNoise()
    with pytest.raises(NoImageError, match="label second"):
        poison(3, images[0])
    with pytest.raises(NoImageError, match="ndarray"):
        poison(images[0].numpy(), 3)
    with pytest.raises(NoImageError, match="palette"):
        poison(PIL.Image.new("P", (8, 8)), 3)
    with pytest.raises(RangeError):
        poison(images[0].float(), 3)


def test_the_constructor_refuses_what_cannot_be_and_shows_the_rest():
    for bad in (
        {"num_classes": 0},
        {"seed": -1},
        {"seed": 2**32},
        {"quantize": "floor"},
        {"epsilon": 0.0},
        {"kind": "x"},
    ):
        with pytest.raises(ValueError, match="expected"):
            ClasswiseNoise(**bad)
    poison = ClasswiseNoise(kind="uniform", seed=7)
    assert "seed=7" in repr(poison) and "kind=uniform" in repr(poison) and "linf" in repr(poison)
    assert poison.arguments == {
        "epsilon": 8 / 255, "kind": "uniform", "num_classes": 10, "seed": 7, "quantize": "round"
    }  # fmt: skip


def test_alpha_is_kept_and_never_poisoned():
    rgba = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8), "RGBA")
    out, _ = ClasswiseNoise()(rgba, 3)
    assert out.mode == "RGBA"
    assert np.array_equal(np.asarray(out)[..., 3], np.asarray(rgba)[..., 3])
    assert not np.array_equal(np.asarray(out)[..., :3], np.asarray(rgba)[..., :3])


def test_a_pair_runs_through_compose_before_the_augmentations(images):
    compose = v2.Compose([ClasswiseNoise(), v2.RandomHorizontalFlip(1.0), v2.ToDtype(torch.float32, scale=True)])
    expected = ClasswiseNoise()(images[0], 4)[0].flip(-1) / 255
    for image, label in (compose((images[0], 4)), compose(images[0], 4)):
        torch.testing.assert_close(image, expected)
        assert label == 4


def test_the_result_carries_no_gradient(images):
    x = (images / 255).requires_grad_()
    assert not SamplewiseNoise()(x, torch.zeros(6, dtype=torch.int64))[0].requires_grad
