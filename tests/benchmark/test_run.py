"""A case is the poison, the purifier in its place, the training and the tests as one would do them by hand."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from puretransforms.benchmark import run
from puretransforms.benchmark.attacks import ATTACKS
from puretransforms.benchmark.cases import Case
from puretransforms.benchmark.defences import DEFENCES, Defence
from puretransforms.benchmark.run import Bench
from puretransforms.data.samples import LabelledImages
from puretransforms.functional.augment import random_crop_flip
from puretransforms.models.resnet import SmallConvNet
from puretransforms.train.classifier import evaluate, predict
from puretransforms.train.settings import ClassifierSetting
from puretransforms.transforms.baselines import Grayscale
from puretransforms.transforms.projection import OrthogonalProjection

TINY = ClassifierSetting("tiny", width=4, epochs=2, network=SmallConvNet, batch_size=16)


def colours(n: int, seed: int) -> LabelledImages:
    labels = torch.arange(n) % 3
    images = torch.randint(0, 120, (n, 3, 12, 12), generator=torch.Generator().manual_seed(seed))
    images[torch.arange(n), labels] += 100
    return LabelledImages(images.to(torch.uint8), labels)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(colours(48, 0), colours(30, 1))


def case(poison: str, purifier: str, seed: int = 1) -> Case:
    return Case(poison, purifier, "tiny", seed)


def by_hand(bench: Bench, poison: str, **options: object) -> tuple[list[float], float]:
    attacked = ATTACKS[poison].make(bench.train, bench.test, 3)
    setting = replace(TINY, augment=options.pop("augment", TINY.augment))
    images = options.pop("images", attacked.images)
    model, records = setting.train(images, attacked.targets, num_classes=3, seed=1, **options)
    steps = [(evaluate(model, bench.test.images, bench.test.targets), record.accuracy) for record in records]
    return [accuracy for accuracy, _ in steps], steps[-1][1]


def test_no_purifier(bench: Bench) -> None:
    result = bench.run(case("lsp", "none"), TINY)
    assert (result.test, result.train) == by_hand(bench, "lsp")
    assert result.case == case("lsp", "none") and result.kind == "availability" and result.success == []


def test_stored_purifies_the_training_images_once(bench: Bench) -> None:
    result = bench.run(case("lsp", "gray"), TINY)
    attacked = bench.attacked("lsp")
    assert (result.test, result.train) == by_hand(bench, "lsp", images=Grayscale()(attacked.images))


def test_after_purifies_each_batch_as_the_network_sees_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFENCES, "online", Defence("after", lambda *_: Grayscale()))
    result = bench.run(case("lsp", "online"), TINY)
    assert (result.test, result.train) == by_hand(bench, "lsp", transform=Grayscale())


@pytest.mark.parametrize("online", [True, False])
def test_the_advice_says_where_it_acts(bench: Bench, monkeypatch: pytest.MonkeyPatch, online: bool) -> None:
    purifier, seen = Grayscale(), []
    purifier.online = online
    purifier.register_forward_hook(lambda module, given, out: seen.append(given[0].dtype))
    monkeypatch.setitem(DEFENCES, "adviser", Defence("advised", lambda *_: purifier))
    result = bench.run(case("ops", "adviser"), TINY)
    images = {} if online else {"images": Grayscale()(bench.attacked("ops").images)}
    transform = {"transform": Grayscale()} if online else {}
    assert (result.test, result.train) == by_hand(bench, "ops", **images, **transform)
    assert len(seen) == (TINY.epochs * 3 if online else 1)


def test_a_labelled_purifier_gets_the_labels_that_the_poisoned_set_carries(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brighten(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images + (labels + 1)[:, None, None, None].to(images.dtype), labels

    monkeypatch.setitem(DEFENCES, "brighten", Defence("stored", lambda *_: brighten, labelled=True))
    result = bench.run(case("badnets", "brighten"), TINY)
    attacked = bench.attacked("badnets")
    assert not attacked.targets.equal(bench.train.targets)
    expected = by_hand(bench, "badnets", images=brighten(attacked.images, attacked.targets)[0])
    assert (result.test, result.train) == expected
    assert bench.fidelity("badnets", "brighten").gain == pytest.approx(1)


def test_before_purifies_floats_ahead_of_the_crop(bench: Bench) -> None:
    attacked = bench.attacked("lsp")
    project = OrthogonalProjection(num_classes=3, seed=0).fit(attacked.images, attacked.targets)
    ranges = []

    def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        x = project(images.float() / 255)
        ranges.append(float(x.min()))
        return random_crop_flip(x * 255, generator)

    expected = by_hand(bench, "lsp", augment=augment)
    result = bench.run(case("lsp", "projection"), TINY)
    assert result.test == expected[0] and result.train == expected[1]
    assert min(ranges) < 0, "not clamped"


def test_step_reaches_the_training_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap(model: object, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, (y + 1) % 3

    monkeypatch.setitem(DEFENCES, "swap", Defence("step", lambda *_: swap))
    result = bench.run(case("clean", "swap"), replace(TINY, epochs=4))
    assert result.train > 0.8 and result.test[-1] < 0.2


def test_the_success_of_a_backdoor(bench: Bench) -> None:
    attacked = bench.attacked("badnets")
    found: list[float] = []
    by_class: list[dict[str, float]] = []
    model, records = TINY.train(attacked.images, attacked.targets, num_classes=3, seed=1)
    for _ in records:
        hits = (predict(model, attacked.triggered) == attacked.wanted).double()
        found.append(float(hits.mean()))
        by_class.append({str(k): float(hits[attacked.truth == k].mean()) for k in (1, 2)})
    result = bench.run(case("badnets", "none"), TINY)
    assert result.success == found and result.success_by_class == by_class[-1] and result.kind == "backdoor"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    made: list[str] = []
    for name in ("lsp", "ops"):
        attack = ATTACKS[name]

        def make(*args: object, name: str = name, attack: object = attack, **options: object) -> object:
            made.append(name)
            return attack.make(*args, **options)

        monkeypatch.setitem(ATTACKS, name, replace(attack, make=make))
    gray = DEFENCES["gray"]

    def purifier(*args: object) -> object:
        made.append("gray")
        return gray.make(*args)

    monkeypatch.setitem(DEFENCES, "gray", Defence("stored", purifier))
    return made


def test_seeds_share_the_poisoned_and_the_purified_set(counted: list[str]) -> None:
    bench = Bench(colours(24, 0), colours(12, 1))
    quick = replace(TINY, epochs=1)
    for seed in (0, 1):
        for poison in ("lsp", "ops"):
            bench.run(case(poison, "gray", seed), quick)
    assert counted == ["lsp", "gray", "ops", "gray"]


def test_fidelity_is_of_poisoned_samples_alone(bench: Bench) -> None:
    found = bench.fidelity("badnets", "gray")
    assert found.images == int(bench.attacked("badnets").mask.sum()) < 48
    assert found.gain > 0.5 and found.psnr_clean < 40
    assert bench.fidelity("lsp", "mixup") is None
    assert bench.fidelity("clean", "gray", sample=7).images == 7


def test_the_number_of_classes_is_that_of_the_data(bench: Bench) -> None:
    assert bench.num_classes == 3 and len(bench.fingerprint) == 16
    assert run.Bench(colours(48, 0), colours(30, 2)).fingerprint != bench.fingerprint
