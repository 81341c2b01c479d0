import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from puretransforms.errors import LabelError, ManifestMismatchError, NotFittedError
from puretransforms.poisons.optimise import new_surrogate
from puretransforms.poisons.stored import StoredPoison


class Planted(StoredPoison):
    """A stored poison of a known optimum: image ``i`` gets ``i`` levels in the first pixel and 0.4 in the second."""

    def __init__(self, *, epsilon=8 / 255, num_classes=3, seed=0, quantize="round"):
        super().__init__(epsilon=epsilon, num_classes=num_classes, seed=seed, quantize=quantize)

    def craft(self, images, labels, surrogate, progress):
        delta = torch.zeros(images.shape)
        delta[:, 0, 0, 0] = torch.arange(len(images)) / 255
        delta[:, 0, 0, 1] = 0.4 / 255
        return delta


class PlantedClasswise(Planted):
    classwise = True

    def craft(self, images, labels, surrogate, progress):
        return super().craft(images, labels, surrogate, progress)[: self.num_classes]


@pytest.fixture
def data():
    images = torch.randint(50, 200, (12, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(12) % 3


def added(poison, images, labels, index=None):
    return (poison(images, labels, index)[0].int() - images.int())[:, 0, 0, 0].tolist()


def test_an_image_finds_its_own_row_by_index_and_else_by_its_pixels(data):
    images, labels = data
    poison = Planted().fit((images, labels), index=torch.arange(12) * 10)
    assert added(poison, images, labels) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8]  # the budget cuts the last ones
    order = torch.tensor([7, 2, 5])
    assert added(poison, images[order], labels[order]) == [7, 2, 5]
    changed = images.flip(2)  # other pixels: the index decides
    assert added(poison, changed[order], labels[order], order * 10) == [7, 2, 5]
    assert (poison(images, labels)[0] - images)[:, 0, 0, 1].eq(0).all()  # 0.4 of a level rounds to none
    assert poison.delta.max() == pytest.approx(8 / 255)


def test_an_epsilon_between_two_levels_keeps_the_levels_inside(data):
    assert max(added(Planted(epsilon=7.6 / 255).fit(data), *data)) == 7
    for epsilon in (0.5 / 255, 128 / 255, 8.0):
        with pytest.raises(ValueError, match="1/255 to 127/255"):
            Planted(epsilon=epsilon)


def test_strangers_and_wrong_labels_are_refused(data):
    images, labels = data
    with pytest.raises(NotFittedError, match="knows nothing: call fit"):
        Planted()(images, labels)
    poison = Planted().fit((images, labels))
    with pytest.raises(NotFittedError, match="2 of 2 are unknown"):
        poison(images[:2].flip(3), labels[:2])
    with pytest.raises(NotFittedError, match="1 of 2 are unknown"):
        poison(images[:2], labels[:2], torch.tensor([1, 12]))
    with pytest.raises(NotFittedError, match=r"shape \[3, 4, 4\]"):
        poison(images[..., :3], labels)
    with pytest.raises(LabelError, match="expected label 1, with which an image was fitted, got 0"):
        poison(images, labels.clone().index_fill_(0, torch.tensor([4]), 0))
    with pytest.raises(LabelError, match="another index"):
        Planted().fit((images, labels), index=torch.zeros(12, dtype=torch.int64))


@pytest.mark.parametrize("kind", [Planted, PlantedClasswise])
def test_it_goes_to_a_file_and_back(data, kind, tmp_path):
    images, labels = data
    poison = kind(epsilon=5 / 255, seed=3).fit((images, labels))
    again = kind.load(poison.save(tmp_path / "poison.safetensors"))
    assert again.arguments == poison.arguments
    for index in (None, torch.arange(12)):
        assert again(images, labels, index)[0].equal(poison(images, labels, index)[0])


def tampered(path, about=None, **tensors):
    with safe_open(path, "pt") as file:
        old, about_old = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file({**old, **tensors}, path, {**about_old, **(about or {})})


def test_a_changed_file_is_refused(data, tmp_path):
    path = Planted(epsilon=5 / 255).fit(data).save(tmp_path / "poison.safetensors")
    with pytest.raises(ManifestMismatchError, match="perturbation of PlantedClasswise"):
        PlantedClasswise.load(path)
    smaller = {"epsilon": repr(4 / 255)}
    smaller_arguments = {**smaller, "arguments": json.dumps({"epsilon": 4 / 255})}
    for about in (smaller, smaller_arguments):
        Planted(epsilon=5 / 255).fit(data).save(path)
        tampered(path, about)
        with pytest.raises(ManifestMismatchError, match="inside the stored budget"):
            Planted.load(path)
    Planted(epsilon=5 / 255).fit(data).save(path)
    with safe_open(path, "pt") as file:
        delta = file.get_tensor("delta")
    tampered(path, delta=delta[:5].clone())
    with pytest.raises(ManifestMismatchError, match="expected 12 perturbations"):
        Planted.load(path)
    tampered(path, delta=delta.float())
    with pytest.raises(ManifestMismatchError, match="int8"):
        Planted.load(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ManifestMismatchError, match="SafetensorError"):
        Planted.load(path)


def test_a_surrogate_must_fit_the_images_and_the_classes(data):
    images, labels = data
    assert Planted().fit((images, labels), surrogate=new_surrogate(3, 4, 0)).fitted
    with pytest.raises(LabelError, match=r"logits \[1, 3\], got \[1, 4\]"):
        Planted().fit((images, labels), surrogate=new_surrogate(4, 4, 0))
    with pytest.raises(LabelError, match=r"got \[1, 3, 4, 4\]"):
        Planted().fit((images, labels), surrogate=nn.Identity())
