import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from puretransforms.errors import LabelError, NoImageError, NotFittedError, SurrogateError
from puretransforms.poisons.availability import ops
from puretransforms.poisons.availability.ops import OPS


@pytest.fixture
def data():
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (90, 3, 6, 5), dtype=torch.uint8, generator=rng)
    x[::3, :, 2, 3] //= 8  # class 0 is dark at one pixel, class 1 nearly so
    x[1::3, :, 2, 3] //= 6
    return x, torch.arange(90) % 3


def brute_force(x, labels, classes, sparsity=1):
    """Every pixel and colour of every class in turn, straight from the paper."""
    x, taken, out = x.numpy() / 255, set(), {}
    for label in range(classes):
        images = x[labels.numpy() == label]
        scores = {}
        for colour in itertools.product((0.0, 1.0), repeat=3):
            for row, column in itertools.product(range(x.shape[2]), range(x.shape[3])):
                distance = np.abs(np.array(colour) - images[:, :, row, column])
                if (colour, row, column) not in taken:
                    scores[colour, row, column] = distance.mean() / distance.std()
        out[label] = []
        for _ in range(sparsity):
            best = max(scores, key=scores.get)
            out[label].append((best, scores[best]))
            taken.add(best)
            scores = {key: value for key, value in scores.items() if key[1:] != best[1:]}
    return out


@pytest.mark.parametrize("sparsity", [1, 3])
def test_the_closed_form_equals_brute_force(data, sparsity):
    x, labels = data
    poison = OPS(sparsity=sparsity, num_classes=3).fit((x, labels))
    poisoned, _ = poison(x, labels)
    expected = brute_force(x, labels, 3, sparsity)
    changed = x.clone()
    for label, choices in expected.items():
        for (colour, row, column), _score in choices:
            changed[labels == label, :, row, column] = (torch.tensor(colour) * 255).to(torch.uint8)
    assert poisoned.equal(changed)
    best = poison.scores()[0].max().item()  # class 0 chooses first
    assert best == pytest.approx(expected[0][0][1], rel=1e-6)


def test_a_pixel_that_one_class_took_is_closed_to_the_next(data):
    x, labels = data
    chosen = OPS(num_classes=3).fit((x, labels)).shortcuts(3, 6, 5)[:, 0]
    assert chosen[0].tolist() == [2 * 5 + 3, 7]  # dark pixel, white
    assert chosen.unique(dim=0).shape[0] == 3


def test_streaming_and_refitting_give_the_same(data, monkeypatch):
    x, labels = data
    whole = OPS(num_classes=3).fit((x, labels))
    monkeypatch.setattr(ops, "_PART", 7)
    parts = OPS(num_classes=3).fit(TensorDataset(x / 255, labels))
    assert parts.shortcuts(3, 6, 5).equal(whole.shortcuts(3, 6, 5))
    again = OPS(num_classes=3).fit((x.flip(2), labels)).fit((x, labels))
    assert again.shortcuts(3, 6, 5).equal(whole.shortcuts(3, 6, 5))
    assert not OPS().fitted and whole.fitted


class ListDataset(list, Dataset):
    """Samples in a list."""


def test_refusals(data, monkeypatch):
    x, labels = data
    with pytest.raises(NotFittedError, match="knows nothing: call fit"):
        OPS(num_classes=3)(x, labels)
    with pytest.raises(NotFittedError, match=r"\[3, 5, 6\], but it knows images of shape \[3, 6, 5\]"):
        OPS(num_classes=3).fit((x, labels))(x.transpose(2, 3), labels)
    with pytest.raises(LabelError, match="label 2, unseen"):
        OPS(num_classes=3).fit((x[labels < 2], labels[labels < 2]))(x, labels)
    with pytest.raises(LabelError, match="from 0 to 1, got 2"):
        OPS(num_classes=2).fit((x, labels))
    monkeypatch.setattr(ops, "_PART", 1)
    mixed = [(x[0], 0), (x[1, :, :4], 1)]
    with pytest.raises(NoImageError, match="one size"):
        OPS(num_classes=2).fit(ListDataset(mixed))
    with pytest.raises(SurrogateError, match="expected no surrogate for OPS"):
        OPS(num_classes=3).fit((x, labels), surrogate=torch.nn.Identity())
    with pytest.raises(ValueError, match="sparsity"):
        OPS(sparsity=0)
