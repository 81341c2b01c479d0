"""What a scan keeps of images, small and large."""

import pytest
import torch

from puretransforms.errors import SourceError
from puretransforms.scanning.sample import from_tiles, gather, to_tiles
from puretransforms.scanning.source import Item


def items(sizes, label=lambda i: i % 2):
    generator = torch.Generator().manual_seed(0)
    for i, (h, w) in enumerate(sizes):
        yield Item(str(i), label(i), torch.randint(256, (3, h, w), dtype=torch.uint8, generator=generator))


def test_small_images_are_kept_whole():
    given = list(items([(32, 40)] * 5))
    sample = gather(given, ["a", "b"], 5)
    assert not sample.tiled and len(sample) == 5
    assert torch.equal(sample.pixels, torch.stack([item.pixels for item in given]))
    assert sample.classes == ["a", "b"] and sample.members(1).tolist() == [1, 3]


def test_of_large_images_the_corners_are_kept_at_full_resolution():
    (given,) = items([(90, 200)])
    sample = gather([given], [], 1)
    assert sample.tiled and sample.pixels.shape == (1, 3, 64, 64) and sample.sizes == ((90, 200), (90, 200))
    tiles = to_tiles(sample.pixels.float())
    x = given.pixels
    corners = [x[:, :32, :32], x[:, :32, -32:], x[:, -32:, :32], x[:, -32:, -32:]]
    assert torch.equal(tiles, torch.stack(corners).float())
    assert torch.equal(from_tiles(tiles, 1), sample.pixels.float())


def test_mixed_sizes_share_the_corners_of_the_smallest():
    sample = gather(items([(32, 32), (90, 70), (20, 64)]), [], 3)
    assert sample.tiled and sample.pixels.shape == (3, 3, 20, 20)
    whole = gather(items([(90, 70)] * 2), [], 2)
    rows = torch.arange(2)
    assert torch.equal(whole.residuals(rows)[:1], gather(items([(90, 70)]), [], 1).residuals(rows[:1]))


def test_labels_without_gaps_and_reasons_for_what_is_left_out():
    given = [*items([(16, 16)] * 3, label=lambda i: 7 - i), *items([(8, 30)]), Item("x", 0, None, "cut short")]
    sample = gather(given, [], None)
    assert sample.classes == ["5", "6", "7"] and sample.labels.tolist() == [2, 1, 0]
    assert sample.left_out == {"smaller than 16 pixels": 1, "cut short": 1}


def test_nothing_to_look_at_is_an_error_that_says_why():
    with pytest.raises(SourceError, match="1 cut short"):
        gather([Item("x", 0, None, "cut short")], [], None)
    with pytest.raises(SourceError, match="empty"):
        gather([], [], None)


def test_of_a_single_class_only_the_grid_of_jpeg_counts_as_shared():
    sample = gather(items([(32, 32)] * 20, label=lambda i: 0), [], 20)
    assert torch.equal(sample.shared[:, :8, :8], sample.shared[:, 8:16, 24:])
    several = gather(items([(32, 32)] * 20), [], 20)
    assert not torch.equal(several.shared[:, :8, :8], several.shared[:, 8:16, 24:])
