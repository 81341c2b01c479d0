import pytest
import torch

from puretransforms.poisons import ColourShift


def test_all_pixels_of_a_class_move_by_the_same_colour():
    grey, labels = torch.full((20, 3, 8, 12), 128, dtype=torch.uint8), torch.arange(20) % 10
    delta = (ColourShift()(grey, labels)[0].double() - 128) / 255
    assert delta.amax((2, 3)).equal(delta.amin((2, 3))), "constant over the image"
    colours = delta[:10, :, 0, 0]
    assert delta[10:, :, 0, 0].equal(colours) and len(colours.unique(dim=0)) == 10
    assert colours.abs().amax(1).sub(0.1).abs().max() < 0.51 / 255, "the budget is used up by every class"


def test_the_colour_of_a_class_does_not_depend_on_how_many_there_are():
    few, many = (ColourShift(num_classes=k).shifts(3, 1, 1) for k in (3, 12))
    assert few.equal(many[:3])


def test_a_budget_beyond_the_range_of_pixels_is_refused():
    with pytest.raises(ValueError, match="epsilon"):
        ColourShift(epsilon=1.5)
