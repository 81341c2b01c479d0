"""The grid is data: what is in it, in which order; every preset can be built as it stands."""

from dataclasses import replace

import pytest
import torch

from puretransforms.benchmark.attacks import find_attack
from puretransforms.benchmark.cases import PRESETS, Case, Preset
from puretransforms.benchmark.defences import find_defence
from puretransforms.registry import list_poisons, list_purifiers, parse
from puretransforms.train.settings import DIGITS_SETTING


def preset(**changes: object) -> Preset:
    return replace(Preset("p", DIGITS_SETTING, ("clean", "lsp"), ("none", "grayscale"), seeds=(0, 1)), **changes)


def test_all_of_a_seed_before_the_next() -> None:
    cases = list(preset().cases())
    assert [case.seed for case in cases] == [0] * 4 + [1] * 4
    assert cases[:4] == [
        Case("clean", "none", "digits", 0),
        Case("clean", "grayscale", "digits", 0),
        Case("lsp", "none", "digits", 0),
        Case("lsp", "grayscale", "digits", 0),
    ]
    assert len(set(cases)) == 8


def test_clean_and_none_are_always_there_once() -> None:
    grid = preset().with_grid(["cuda", "clean", "cuda"], ["coin"], [5])
    assert grid.poisons == ("clean", "cuda") and grid.purifiers == ("none", "coin") and grid.seeds == (5,)
    assert preset().with_grid() == preset()


def test_another_number_of_epochs_is_another_victim() -> None:
    longer = preset().with_grid(epochs=40).setting
    assert (longer.name, longer.epochs, longer.width) == ("digits-40", 40, DIGITS_SETTING.width)
    assert preset().with_grid(epochs=DIGITS_SETTING.epochs) == preset()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_built(name: str) -> None:
    preset = PRESETS[name]
    for case in preset.cases():
        find_attack(case.poison), find_defence(case.purifier)
        assert case.setting == preset.setting.name
    assert preset.poisons[0] == "clean" and preset.purifiers[0] == "none"
    assert isinstance(preset.setting.describe()["network"], str)


def test_the_gpu_preset_is_the_published_network_on_all_data() -> None:
    preset = PRESETS["gpu"]
    model, records = preset.setting.train(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 2, 3]))
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    assert (preset.device, preset.train_size, preset.test_size) == ("cuda", None, None)
    assert len(preset.poisons) >= 9 and len(preset.purifiers) >= 9 and len(preset.seeds) == 3
    records.close()


def test_the_gpu_preset_holds_every_poison_and_every_purifier_that_there_is() -> None:
    gpu, control = PRESETS["gpu"], {"samplewise"}
    assert set(list_poisons()) - control <= {parse(poison)[0] for poison in gpu.poisons}
    composed = {"chain"}
    assert set(list_purifiers()) - composed <= {find_defence(purifier).name for purifier in gpu.purifiers}


def test_the_fast_victim_at_two_widths() -> None:
    quarter, full = PRESETS["quarter"], PRESETS["full"]
    assert (quarter.setting.width, full.setting.width) == ((16, 64, 64), (32, 128, 128))
    assert quarter.poisons == full.poisons and quarter.purifiers == full.purifiers
    assert {"unet", "unet@test", "unet:jitter=true@access"} <= set(full.purifiers)
    assert {"pil", "colour_shift", "mix", "mix:rate=0.5", "sig"} <= set(full.poisons)
    assert {"jpeg:quality=10", "jpeg:quality=30:chroma_quality=10", "grey_noise", "auto"} <= set(full.purifiers)
    assert (full.train_size, full.test_size, full.digits) == (None, None, False)


def test_the_tiny_grid_is_for_the_digits() -> None:
    tiny = PRESETS["tiny"]
    assert tiny.digits and tiny.setting == DIGITS_SETTING and tiny.seeds == (0,)
    assert (tiny.poisons, tiny.purifiers) == (("clean", "cuda"), ("none", "coin"))
