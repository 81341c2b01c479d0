"""Every poison of the registry makes a row, and the test images that it aims at."""

from pathlib import Path

import numpy as np
import pytest
import torch

from puretransforms.benchmark.attacks import drawn_setup, find_attack
from puretransforms.data.samples import LabelledImages
from puretransforms.errors import BenchmarkError, HardwareError, LabelError, RegistryError, SourceError
from puretransforms.poisons.availability.convolution import CUDA
from puretransforms.poisons.availability.ops import OPS
from puretransforms.poisons.backdoor.badnets import BadNets
from puretransforms.registry import list_poisons

EM = "width=4:max_rounds=1:train_steps=1:pgd_steps=1"
ADVERSARIAL = "width=4:epochs=1:steps=2"
TOYS = {  # of the poisons that train a network
    "bullseye_polytope": f"{ADVERSARIAL}:setup=3",
    "em_classwise": EM,
    "em_samplewise": EM,
    "gradient_matching": f"{ADVERSARIAL}:restarts=1:rate=0.1",
    "hypo": ADVERSARIAL,
    "narcissus": "width=4:epochs=1:rounds=8:lr=0.1",
    "pil": "epochs=2:steps=3",
    "rem": "on_cpu=true:width=4:train_steps=1:pgd_steps=1:views=1:inner_steps=1",
    "sep": f"{ADVERSARIAL}:checkpoints=1",
    "tap": f"{ADVERSARIAL}:restarts=1",
}


def data(n: int, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return LabelledImages(images, torch.arange(n) % 4)


@pytest.mark.parametrize("name", ["clean", *list_poisons()])
def test_every_poison_keeps_shapes_and_says_what_it_changed(name: str) -> None:
    train, test = data(80), data(20, 1)
    attack = find_attack(f"{name}:{TOYS[name]}" if name in TOYS else name)
    attacked = attack.run(train, test, 4)
    changed = (attacked.images != train.images).flatten(1).any(1)
    assert attacked.images.shape == train.images.shape and attacked.images.dtype == torch.uint8
    assert not (changed & ~attacked.mask).any()
    assert changed[attacked.mask].double().mean() > 0.9 if name != "clean" else not attacked.mask.any()
    assert (len(attacked.wanted) > 0) == (attack.kind != "availability")
    assert attack.kind == "backdoor" or torch.equal(attacked.targets, train.targets)
    assert len(attacked.wanted) == 1 or attack.kind != "targeted"
    assert len(attacked.triggered) == len(attacked.wanted) == len(attacked.truth)


def test_the_set_is_the_poison_by_hand() -> None:
    train, test, index = data(30), data(8, 1), torch.arange(30)
    attacked = find_attack("cuda").run(train, test, 4)
    assert torch.equal(attacked.images, CUDA(num_classes=4)(train.images, train.targets, index)[0])
    attacked = find_attack("ops").run(train, test, 4)
    fitted = OPS(num_classes=4).fit((train.images, train.targets))
    assert torch.equal(attacked.images, fitted(train.images, train.targets, index)[0])


def test_a_backdoor_aims_at_all_test_images_of_other_classes() -> None:
    train, test = data(40), data(20, 1)
    attacked = find_attack("badnets:target=2:rate=0.25").run(train, test, 4)
    assert int(attacked.mask.sum()) == 10 and (attacked.targets[attacked.mask] == 2).all()
    others = test.targets != 2
    assert torch.equal(attacked.triggered, BadNets(num_classes=4, target=2).trigger(test.images[others]))
    assert torch.equal(attacked.truth, test.targets[others]) and (attacked.wanted == 2).all()


def test_a_targeted_poison_alters_its_bases_and_no_other_image() -> None:
    train, test = data(80), data(20, 1)
    attacked = find_attack(f"gradient_matching:{TOYS['gradient_matching']}:setup=1").run(train, test, 4)
    setup = drawn_setup(train, test, 4, 1, 0.1)
    assert attacked.mask.nonzero()[:, 0].equal(setup.base_indices)
    assert attacked.triggered.equal(setup.target[None])
    assert (attacked.wanted.item(), attacked.truth.item()) == (setup.base_class, setup.target_class)


def test_setups_differ_by_their_number_alone() -> None:
    train, test = data(80), data(20, 1)
    one, again, other = (drawn_setup(train, test, 4, number, 0.1) for number in (0, 0, 1))
    assert one.base_indices.equal(again.base_indices) and one.target.equal(again.target)
    assert not other.base_indices.equal(one.base_indices)
    assert one.target_class != one.base_class and len(one.base_indices) == 8
    assert (train.targets[one.base_indices] == one.base_class).all()
    assert (test.images[test.targets == one.target_class] == one.target).flatten(1).all(1).any()
    with pytest.raises(LabelError, match=r"40 training images of class .* got 5 and 20: lower the rate"):
        drawn_setup(train, test, 4, 0, 0.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_needs_a_gpu_says_so() -> None:
    with pytest.raises(HardwareError, match="on a GPU for REM"):
        find_attack("rem").run(data(8), data(8), 4)


def test_a_backdoor_without_other_classes_is_refused() -> None:
    train = data(40)
    test = LabelledImages(train.images[:4], torch.zeros(4, dtype=torch.int64))
    with pytest.raises(LabelError, match="other classes than the target 0"):
        find_attack("badnets").run(train, test, 4)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("arsenic", RegistryError, "expected a poison among ar, badnets"),
        ("lsp:seed", RegistryError, "lsp:option=value, got 'lsp:seed'"),
        ("clean:seed=1", BenchmarkError, "'clean' without options"),
        ("lsp:rate=2", BenchmarkError, "a rate above 0 and up to 1 in 'lsp:rate=2'"),
        ("lsp:setup=2", BenchmarkError, "of a targeted poison, got 'lsp:setup=2'"),
    ],
)
def test_words_that_name_no_row_are_refused(spec: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        find_attack(spec)


def test_arguments_that_a_poison_does_not_take_are_refused() -> None:
    with pytest.raises(RegistryError, match=r"makes no LSP.*strenth"):
        find_attack("lsp:strenth=3").poison(4)


def test_options_are_json_or_text_and_rate_is_of_the_row() -> None:
    attack = find_attack("badnets:target=3:mode=all-to-all:rate=0.5")
    assert attack.options == {"target": 3, "mode": "all-to-all"} and attack.rate == 0.5


def test_a_poison_of_another_module() -> None:
    train = data(12)
    attacked = find_attack("puretransforms.poisons.availability.convolution:CUDA:seed=3").run(train, data(4), 4)
    assert torch.equal(attacked.images, find_attack("cuda:seed=3").run(train, data(4), 4).images)


def published(path: Path, **changes: np.ndarray) -> str:
    """A file that holds images 3 and 1 of ``data(12)``, inverted."""
    train = data(12)
    arrays = {
        "x": 255 - train.images[[3, 1]].permute(0, 2, 3, 1).numpy(),
        "y": train.targets[[3, 1]].numpy(),
        "index": np.array([3, 1]),
    }
    np.savez(path / "set.npz", **{name: array for name, array in (arrays | changes).items() if len(array)})
    return f"published:path={path / 'set.npz'}"


def test_a_published_set_stands_in_the_place_of_what_it_was_made_from(tmp_path: Path) -> None:
    train, test = data(12), data(4, 1)
    attacked = find_attack(published(tmp_path)).run(train, test, 4)
    assert attacked.mask.nonzero()[:, 0].tolist() == [1, 3] and len(attacked.wanted) == 0
    assert torch.equal(attacked.images[attacked.mask], 255 - train.images[attacked.mask])
    assert torch.equal(attacked.images[~attacked.mask], train.images[~attacked.mask])
    assert torch.equal(attacked.targets, train.targets)


def test_without_places_it_is_the_first_images_in_order(tmp_path: Path) -> None:
    train = data(12)
    spec = published(tmp_path, y=train.targets[:2].numpy(), index=np.array([]))
    assert find_attack(spec).run(train, data(4, 1), 4).mask.nonzero()[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y": np.array([0, 0])}, "but 2 of 2 differ"),
        ({"y": np.array([1])}, "a place in it for each"),
        ({"index": np.array([3, 12])}, "0 to 11"),
        ({"index": np.array([3, 3])}, "a place in it for each"),
        ({"index": np.array(["a", "b"])}, "expected an .npz with x"),
        ({"x": np.zeros((2, 8, 8, 3), np.uint8)}, r"\[2, 3, 8, 8\]"),
        ({"x": np.zeros((2, 16, 16, 3), np.float32)}, "float32"),
        ({"x": np.zeros((2, 16), np.uint8)}, "expected an .npz with x"),
        ({"y": np.array([])}, "expected an .npz with x"),
    ],
)
def test_a_file_that_is_not_of_this_data_is_refused(changes: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=says):
        find_attack(published(tmp_path, **changes)).run(data(12), data(4, 1), 4)


@pytest.mark.parametrize("spec", ["published", "published:path=a.npz:rate=0.5"])
def test_a_published_set_has_a_path_and_nothing_else(spec: str) -> None:
    with pytest.raises(BenchmarkError, match=r"published:path=FILE\.npz"):
        find_attack(spec)


def test_no_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"at .*nothing\.npz"):
        find_attack(f"published:path={tmp_path / 'nothing.npz'}").run(data(12), data(4, 1), 4)
