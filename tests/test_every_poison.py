"""One table for every poison: the same rows must hold for each, and a new one cannot be forgotten."""

import copy
import functools
import importlib
import inspect
import itertools
import json
import pickle
import pkgutil

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from puretransforms import poisons
from puretransforms.errors import LabelError, ManifestMismatchError, NoImageError, RangeError
from puretransforms.functional.perturbation import excess
from puretransforms.functional.random import KeyedNoise
from puretransforms.poisons.backdoor.base import Backdoor
from puretransforms.poisons.base import Poison
from puretransforms.poisons.dataset import PoisonedDataset, asr_test_set
from puretransforms.poisons.export import export, load_poison_record
from puretransforms.poisons.stored import StoredPoison
from puretransforms.poisons.targeted.base import TargetedPoison, TargetedSetup
from puretransforms.registry import create, find, list_poisons

EM = {"width": 4, "max_rounds": 2, "train_steps": 1, "pgd_steps": 2, "step": 8 / 255}

ADVERSARIAL = {"width": 4, "epochs": 1, "steps": 2, "step": 8 / 255}

CASES = {  # class name of each public poison, and variants of it that run other code
    "AR": [{}],
    "BPP": [{}, {"dither": True, "mode": "all-to-all"}],
    "BadNets": [{}, {"pattern": "checkerboard", "mode": "all-to-all"}],
    "Blend": [{}, {"pattern": "noise"}],
    "BullseyePolytope": [{"width": 4, "epochs": 1, "steps": 2, "lr": 8 / 255}],
    "CUDA": [{}, {"kernel_size": 5, "p_b": 0.1}],
    "ClasswiseNoise": [{}, {"kind": "uniform"}, {"kind": "l2", "epsilon": 0.5}],
    "ColourShift": [{}],
    "EMClasswise": [{**EM, "subset": 1.0}, {**EM, "subset": 1.0, "one_sided": True}],
    "EMSamplewise": [EM],
    "GradientMatching": [{"width": 4, "epochs": 1, "steps": 2, "restarts": 1}],
    "HUDA": [{}],
    "HYPO": [ADVERSARIAL],
    "LSP": [{}, {"patch_size": 5}],
    "Mix": [{"poisons": ["lsp", "samplewise"]}],
    "Narcissus": [{"width": 4, "epochs": 1, "rounds": 20, "lr": 0.3}],
    "OPS": [{}, {"sparsity": 3}],
    "PIL": [{"epochs": 2}],
    "REM": [{"on_cpu": True, "width": 4, "train_steps": 1, "pgd_steps": 2, "step": 8 / 255, "views": 1}],
    "SEP": [{**ADVERSARIAL, "checkpoints": 1}, {**ADVERSARIAL, "checkpoints": 1, "align_features": True}],
    "SIG": [{}],
    "SamplewiseNoise": [{}, {"kind": "uniform"}, {"kind": "l2", "epsilon": 0.5}],
    "TAP": [{**ADVERSARIAL, "restarts": 1}, {**ADVERSARIAL, "restarts": 2, "targeted": False}],
    "VUDA": [{}],
    "WaNet": [{}],
}
TARGETED = {"BullseyePolytope", "GradientMatching"}
SAMPLEWISE = {
    "AR",
    "EMSamplewise",
    "HYPO",
    "LSP",
    "Mix",
    "PIL",
    "REM",
    "SEP",
    "SamplewiseNoise",
    "TAP",
} | TARGETED  # by index too
N, SIZE, TARGET, BASE = 24, 16, 0, 4


def every_poison() -> set[str]:
    modules = [
        importlib.import_module(m.name) for m in pkgutil.walk_packages(poisons.__path__, "puretransforms.poisons.")
    ]
    classes = {c for module in modules for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Poison)}
    bases = {Poison, Backdoor, StoredPoison, TargetedPoison}
    return {c.__name__ for c in classes - bases if not c.__name__.startswith("_")}


def build(name: str, options: dict, **more) -> Poison:
    return prepared(getattr(poisons, name)(**options, **more))


def prepared(poison: Poison) -> Poison:
    """Fitted where needed; where each sample has a perturbation of its own, also on mirrored images, an index on."""
    images, labels = data()
    if isinstance(poison, StoredPoison) and not poison.classwise:
        places = torch.arange(N) * 7
        both = torch.cat([images, images.flip(3)])
        return fit(poison, both, labels.repeat(2), torch.cat([places, places + 1]))
    return fit(poison, images, labels) if poison.needs_fit else poison


def fit(
    poison: Poison, images: torch.Tensor, labels: torch.Tensor, index: torch.Tensor | None = None, **more
) -> Poison:
    """As the contract says, with a setup for those that have a target."""
    if isinstance(poison, TargetedPoison):
        places = torch.arange(len(labels)) if index is None else index
        more["setup"] = TargetedSetup(images[0], TARGET, BASE, places[labels == BASE])
    return poison.fit((images, labels), index=index, **more)


def eligible(poison: Poison, labels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return poison.eligible(labels, KeyedNoise(poison.seed, index))


@functools.cache
def built(name: str, options: str) -> bytes:
    """One fit serves many tests."""
    return pickle.dumps(build(name, json.loads(options)))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    images[1], images[2] = 0, 255  # clamping must be met
    return images, torch.arange(N) % 10


@pytest.fixture
def batch():
    return data()


@pytest.fixture
def index():
    return torch.arange(N) * 7


ALL = [(name, options) for name in sorted(CASES) for options in CASES[name]]
SEEDED = [c for c in ALL if "seed" in inspect.signature(getattr(poisons, c[0])).parameters]
STORED = [c for c in ALL if issubclass(getattr(poisons, c[0]), StoredPoison)]
BACKDOORS = [c for c in ALL if issubclass(getattr(poisons, c[0]), Backdoor)]


@pytest.fixture(params=ALL, ids=str)
def case(request):
    return request.param


@pytest.fixture
def poison(case):
    return pickle.loads(built(case[0], json.dumps(case[1])))


def same(a, b) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_the_table_and_the_package_hold_every_poison():
    assert set(CASES) == every_poison() == {find(name, "poison").__name__ for name in list_poisons()}
    assert every_poison() <= set(poisons.__all__)
    assert all(hasattr(poisons, name) for name in poisons.__all__)


@pytest.mark.parametrize("name", list_poisons())
def test_it_is_made_by_its_registered_name_and_refuses_what_it_does_not_take(name):
    kind = find(name, "poison")
    assert type(create(name, num_classes=7)) is kind and create(f"{name}:num_classes=7").num_classes == 7
    with pytest.raises(TypeError, match=f"{kind.__name__} takes no argument 'num_clases': did you mean num_classes"):
        kind(num_clases=7)


def test_fit_is_called_in_the_same_way_for_every_poison():
    wanted = ["dataset", "surrogate", "index", "device", "on_progress"]
    for name in list_poisons():
        parameters = inspect.signature(find(name, "poison").fit).parameters
        assert [p for p in parameters if p not in ("self", "setup")] == wanted
        assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[2:])


def test_it_says_whether_it_is_fitted_and_fit_returns_itself(case):
    poison, (images, labels) = getattr(poisons, case[0])(**case[1]), data()
    assert poison.fitted != poison.needs_fit
    assert fit(poison, images, labels) is poison and poison.fitted


def test_it_changes_the_images_it_should_and_leaves_its_input_alone(poison, batch, index):
    images, labels = batch
    for x in (images, images / 255, images.double() / 255):
        before, labels_before = x.clone(), labels.clone()
        poisoned, _ = poison(x, labels, index)
        assert x.equal(before) and labels.equal(labels_before)
        changed = (poisoned != x).flatten(1).any(1)
        assert changed[3:].equal(eligible(poison, labels, index)[3:])


def test_labels_are_kept_or_changed_as_declared(poison, batch, index):
    images, labels = batch
    _, out = poison(images, labels, index)
    assert out.dtype == labels.dtype
    expected = torch.where(eligible(poison, labels, index), poison.relabel(labels), labels)
    assert out.equal(expected)
    assert out.equal(labels) != (isinstance(poison, Backdoor) and not poison.clean_label)
    assert out.min() >= 0 and out.max() < poison.num_classes


def test_the_budget_holds_on_the_8_bit_grid(poison, batch, index):
    images, labels = batch
    assert (poison.epsilon is None) == (poison.norm is None)
    for x in (images / 255, images.double() / 255):
        poisoned, _ = poison(x, labels, index)
        assert poisoned.min() >= 0 and poisoned.max() <= 1
        assert (poisoned.double() * 255 - (poisoned.double() * 255).round()).abs().max() < 1e-4
        if poison.norm:
            over = excess(poisoned, x, poison.epsilon, poison.norm, poison.quantize)
            assert over.max() <= 0
            budget = excess(poisoned, x, poison.epsilon * 0.8, poison.norm, poison.quantize)
            assert budget.max() > 0  # the budget is used, and the check can fail


@pytest.mark.parametrize("quantize", ["round", "trunc", None])
def test_every_quantisation_runs_and_agrees_to_a_level(case, batch, index, quantize):
    images, labels = batch
    poison = build(*case, quantize=quantize)
    exact = build(*case, quantize=None)
    out, _ = poison(images / 255, labels, index)
    difference = (out - exact(images / 255, labels, index)[0]).abs().max() * 255
    assert difference <= {"round": 0.501, "trunc": 1.001, None: 0}[quantize]


def test_the_same_seed_and_index_give_the_same_poison_in_any_batch_and_order(case, poison, batch, index):
    images, labels = batch
    again = build(*case)
    whole, targets = poison(images, labels, index)
    assert whole.equal(again(images, labels, index)[0])
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert whole[order].equal(poison(images[order], labels[order], index[order])[0])
    for size in (1, 5):
        parts = [poison(*part) for part in zip(*(t.split(size) for t in (images, labels, index)), strict=True)]
        assert whole.equal(torch.cat([part[0] for part in parts]))
        assert targets.equal(torch.cat([part[1] for part in parts]))
    copies = images[3:4].expand(400, -1, -1, -1), labels[3:4].expand(400), index[3:4].expand(400)
    assert poison(*copies)[0].eq(whole[3]).all()  # wherever it stands in a large batch


@pytest.mark.parametrize(("name", "options"), STORED)
def test_what_is_crafted_is_counted_to_its_end_and_the_counting_changes_nothing(name, options):
    images, labels = data()
    records = []
    poison = getattr(poisons, name)(**options)
    assert fit(poison, images, labels, on_progress=records.append) is poison
    stages = [stage for stage, _ in itertools.groupby(record.stage for record in records)]
    assert (
        stages == ["perturbation"] if name in ("EMClasswise", "EMSamplewise", "REM") else ["surrogate", "perturbation"]
    )
    for stage in stages:
        counted = [record for record in records if record.stage == stage]
        assert [record.done for record in counted[: counted[0].total + 1]] == list(range(len(counted)))[
            : counted[0].total + 1
        ]
        assert counted[-1].done == counted[-1].total > 0
    assert poison.delta.equal(fit(getattr(poisons, name)(**options), images, labels).delta)


@pytest.mark.parametrize(("name", "options"), SEEDED)
def test_another_seed_gives_another_poison(name, options, batch, index):
    images, labels = batch
    a, b = (build(name, options, seed=seed) for seed in (0, 1))
    if name == "BPP":  # the trigger is rounding; the decoys are random
        a, b = a.covers, b.covers
    differs = (a(images, labels, index)[0] != b(images, labels, index)[0]).flatten(1).any(1)
    assert differs[3:][eligible(a, labels, index)[3:]].all()


def test_the_index_matters_exactly_where_the_poison_is_samplewise(case, poison, batch, index):
    images, labels = batch
    a, b = poison(images, labels, index)[0], poison(images, labels, index + 1)[0]
    assert a.equal(b) != (case[0] in SAMPLEWISE)


def test_types_in_are_types_out(poison, batch, index):
    images, labels = batch
    expected, targets = poison(images, labels, index)
    for dtype in (torch.float32, torch.float64, torch.float16):
        out, _ = poison((images.double() / 255).to(dtype), labels, index)
        assert out.dtype == dtype and out.shape == images.shape
        levels = ((out.double() * 255).round() - expected.double()).abs()
        assert levels.max() <= (0 if dtype == torch.float32 else 1) or dtype == torch.float16
    for i in (0, 3, 10):
        label, place = int(labels[i]), int(index[i])
        pil, out = poison(F.to_pil_image(images[i]), label, place)
        assert isinstance(pil, PIL.Image.Image) and pil.mode == "RGB" and type(out) is int and out == targets[i]
        assert same(F.pil_to_tensor(pil), expected[i])
        typed, _ = poison(tv_tensors.Image(images[i]), label, place)
        assert type(typed) is tv_tensors.Image and typed.equal(expected[i])
        plain, _ = poison(images[i], labels[i], index[i])
        assert type(plain) is torch.Tensor and plain.equal(expected[i])
    views, out = poison(images.view(4, 6, 3, SIZE, SIZE), labels.view(4, 6), index.view(4, 6))
    assert views.equal(expected.view(4, 6, 3, SIZE, SIZE)) and out.equal(targets.view(4, 6))


def test_grey_images_of_other_shapes_run_or_are_refused_with_the_fix(case):
    grey, labels = torch.randint(0, 256, (10, 1, 12, 20), dtype=torch.uint8), torch.arange(10)
    poison = getattr(poisons, case[0])(**case[1])
    if case[0] == "AR" or (isinstance(poison, StoredPoison) and case[0] != "PIL"):
        with pytest.raises(NoImageError, match="convert"):
            fit(poison, grey, labels)(grey, labels)
        return
    poison = fit(poison, grey, labels) if poison.needs_fit else poison
    poisoned, _ = poison(grey, labels)
    assert poisoned.shape == grey.shape and not poisoned.equal(grey)
    pil, _ = poison(F.to_pil_image(grey[0]), 0)
    assert pil.mode == "L" and same(F.pil_to_tensor(pil), poisoned[0])


def test_it_stands_in_compose_before_the_augmentations(poison, batch):
    images, labels = batch
    compose = v2.Compose([poison, v2.RandomHorizontalFlip(1.0), v2.ToDtype(torch.float32, scale=True)])
    for i in (0, 4):
        sample = tv_tensors.Image(images[i]), int(labels[i])
        expected, target = poison(*sample)
        for out in (compose(*sample), compose(sample)):
            torch.testing.assert_close(
                out[0].as_subclass(torch.Tensor), expected.flip(-1).as_subclass(torch.Tensor) / 255
            )
            assert out[1] == target


def test_it_survives_pickle_and_deepcopy_also_after_use(poison, batch, index):
    images, labels = batch
    expected, _ = poison(images, labels, index)
    for twin in (pickle.loads(pickle.dumps(poison)), copy.deepcopy(poison)):
        assert twin(images, labels, index)[0].equal(expected) and repr(twin) == repr(poison)


def test_its_arguments_make_it_again_and_are_plain_data(poison, batch, index):
    images, labels = batch
    again = type(poison)(**json.loads(json.dumps(poison.arguments)))
    again = prepared(again)
    assert again(images, labels, index)[0].equal(poison(images, labels, index)[0])
    parameters = inspect.signature(type(poison)).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters)
    assert all(f"{p.name}=" in repr(poison) for p in parameters if p.default is not None)


def test_no_global_random_state_is_read_or_moved(case, batch, index):
    images, labels = batch
    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        state = torch.get_rng_state().tolist(), np.random.get_state()[1].tobytes()  # noqa: NPY002
        outputs.append(build(*case)(images, labels, index)[0])
        assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tobytes()) == state  # noqa: NPY002
    assert outputs[0].equal(outputs[1])


def test_wrong_labels_and_images_are_refused(poison, batch):
    images, labels = batch
    with pytest.raises(LabelError, match="from 0 to 9, got 10"):
        poison(images, labels + 1)
    with pytest.raises(LabelError, match="integer dtype"):
        poison(images, labels.float())
    with pytest.raises(LabelError, match=r"shape \[24\]"):
        poison(images, labels[:5])
    with pytest.raises(LabelError, match="without labels"):
        poison(images)
    with pytest.raises(RangeError, match="divide by 255"):
        poison(images.float(), labels)
    with pytest.raises(NoImageError, match="ndarray"):
        poison(images.numpy(), labels)


def test_a_data_set_goes_to_disk_and_back_exactly(case, poison, batch, tmp_path):
    images, labels = batch
    inner = TensorDataset(images, labels)
    rate = 0.125 if poison.eligible(labels).sum() < N else 0.25
    attack = getattr(poisons, case[0])(**case[1])
    if case[0] in TARGETED:
        attack, rate = fit(attack, images, labels), None
    data_set = PoisonedDataset(inner, attack, rate=rate)
    assert data_set.mask.equal(labels == BASE) if rate is None else data_set.mask.sum() == rate * N
    record = load_poison_record(export(data_set, tmp_path / "out"), clean=inner)
    assert record.mask.equal(data_set.mask) and record.targets.equal(data_set.targets)
    assert (record.epsilon, record.norm, record.poison) == (poison.epsilon, poison.norm, case[0])
    folder = ImageFolder(tmp_path / "out", allow_empty=True)
    places = {path: place for place, (path, _) in enumerate(folder.samples)}
    for i, (image, label) in enumerate(data_set):
        stored, stored_label = folder[places[str(tmp_path / "out" / record.files[i])]]
        assert same(F.pil_to_tensor(stored), image) and stored_label == label
        if data_set.mask[i]:
            fitted = data_set.poison if poison.needs_fit else poison
            assert image.equal(fitted(images[i], int(labels[i]), i)[0])
    batches = list(DataLoader(data_set, batch_size=7))
    assert torch.cat([x for x, _ in batches]).equal(torch.stack([x for x, _ in data_set]))
    if poison.norm:
        path = tmp_path / "out" / "poison.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "epsilon": poison.epsilon * 0.5}))
        with pytest.raises(ManifestMismatchError, match="outside the stored budget"):
            load_poison_record(tmp_path / "out", clean=inner)


@pytest.mark.parametrize(("name", "options"), BACKDOORS)
def test_every_backdoor_can_be_measured(name, options, batch):
    poison = build(name, options)
    images, labels = batch
    test = asr_test_set(TensorDataset(images, labels), poison)
    assert len(test) == (N if poison.mode == "all-to-all" else (labels != TARGET).sum())
    image, wanted = test[-1]
    assert image.equal(poison.trigger(images[-1])) and wanted == poison.wanted(labels[-1:])
