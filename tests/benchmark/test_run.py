"""A case is the poison, the purifier in its place, the training and the tests as one would do them by hand."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from puretransforms import registry
from puretransforms.benchmark import run
from puretransforms.benchmark.attacks import find_attack
from puretransforms.benchmark.cases import Case
from puretransforms.benchmark.defences import TRAINING
from puretransforms.benchmark.run import Bench, run_case
from puretransforms.data.samples import LabelledImages
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.availability.lsp import LSP
from puretransforms.poisons.availability.ops import OPS
from puretransforms.train.classifier import evaluate, predict
from puretransforms.train.settings import ClassifierSetting
from puretransforms.transforms.base import PureTransform
from puretransforms.transforms.baselines import Grayscale
from puretransforms.transforms.coin import COINInterpolate

TINY = ClassifierSetting("tiny", width=4, epochs=2, network=SmallConvNet, batch_size=16)
PURIFIERS = registry._CLASSES["purifier"]


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


def by_hand(
    bench: Bench, poison: str, test: torch.Tensor | None = None, **options: object
) -> tuple[list[float], float]:
    attacked = find_attack(poison).run(bench.train, bench.test, 3)
    images = options.pop("images", attacked.images)
    test = bench.test.images if test is None else test
    model, records = TINY.train(images, attacked.targets, num_classes=3, seed=1, **options)
    steps = [(evaluate(model, test, bench.test.targets), record.accuracy) for record in records]
    return [accuracy for accuracy, _ in steps], steps[-1][1]


def test_no_purifier(bench: Bench) -> None:
    result = bench.run(case("lsp", "none"), TINY)
    assert (result.test, result.train) == by_hand(bench, "lsp")
    assert result.case == case("lsp", "none") and result.kind == "availability" and result.success == []
    assert result.place == "nowhere"


def test_once_purifies_the_training_images_once(bench: Bench) -> None:
    result = bench.run(case("lsp", "grayscale"), TINY)
    attacked = bench.attacked("lsp")
    assert (result.test, result.train) == by_hand(bench, "lsp", images=Grayscale()(attacked.images))
    assert result.place == "once"


def test_access_purifies_each_batch_as_the_network_sees_it(bench: Bench) -> None:
    result = bench.run(case("lsp", "coin"), TINY)
    assert (result.test, result.train) == by_hand(bench, "lsp", transform=COINInterpolate())
    assert result.place == "access"
    once = bench.run(case("lsp", "coin@once"), TINY)
    held = COINInterpolate(seed=0)(bench.attacked("lsp").images)
    assert (once.test, once.train) == by_hand(bench, "lsp", images=held) and once.test != result.test


def test_at_test_time_the_test_images_are_purified_too(bench: Bench) -> None:
    result = bench.run(case("badnets", "jpeg:quality=5@test"), TINY)
    attacked, jpeg = bench.attacked("badnets"), registry.create("jpeg:quality=5")
    expected = by_hand(bench, "badnets", images=jpeg(attacked.images), test=jpeg(bench.test.images))
    assert (result.test, result.train) == expected and result.place == "test"
    model, records = TINY.train(jpeg(attacked.images), attacked.targets, num_classes=3, seed=1)
    list(records)
    shown = predict(model, jpeg(attacked.triggered))
    assert result.success[-1] == float((shown == attacked.wanted).double().mean()), "and what the attacker shows"


@pytest.mark.parametrize("online", [True, False])
def test_the_advice_says_where_it_acts(bench: Bench, monkeypatch: pytest.MonkeyPatch, online: bool) -> None:
    seen = []

    class Adviser(Grayscale):
        fitted = True

        def __init__(self, *, seed: int | None = None) -> None:
            super().__init__(seed=seed)
            self.online = online
            self.register_forward_hook(lambda module, given, out: seen.append(given[0].dtype))

    monkeypatch.setitem(PURIFIERS, "auto", Adviser)
    fresh = Bench(bench.train, bench.test)
    result = fresh.run(case("ops", "auto"), TINY)
    images = {} if online else {"images": Grayscale()(bench.attacked("ops").images)}
    transform = {"transform": Grayscale()} if online else {}
    assert (result.test, result.train) == by_hand(bench, "ops", **images, **transform)
    assert len(seen) == (TINY.epochs * 3 if online else 1) and result.place == ("access" if online else "once")


class Dropper(Grayscale):
    """Names images as the scan of ``auto`` does."""

    def __init__(self, *, drop: str = "suspects", seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self.drop = drop

    fitted = property(lambda self: hasattr(self, "dropped"))

    def fit(self, dataset: object, **options: object) -> "Dropper":
        self.dropped = {"0": ["patches"], "7": ["patches"]}
        return self


def test_images_that_the_purifier_names_are_not_trained_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PURIFIERS, "auto", Dropper)
    result = Bench(bench.train, bench.test).run(case("badnets", "auto@once"), TINY)
    attacked = bench.attacked("badnets")
    kept = torch.tensor([row not in (0, 7) for row in range(len(attacked.images))])
    _, records = TINY.train(Grayscale()(attacked.images[kept]), attacked.targets[kept], num_classes=3, seed=1)
    assert result.train == [record.accuracy for record in records][-1]


class Brighten(PureTransform):
    """Adds to each image what its label says; made for these tests."""

    reads_labels = True
    randomized = False

    def __init__(self, *, seed: int | None = None) -> None:
        super().__init__(seed=seed)

    def purify(self, x: torch.Tensor, noise: object, labels: torch.Tensor | None = None) -> torch.Tensor:
        return x if labels is None else x + (labels + 1)[:, None, None, None] / 51


def test_a_purifier_that_reads_labels_gets_those_of_the_poisoned_set(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PURIFIERS, "brighten", Brighten)
    attacked, brighten = bench.attacked("badnets"), Brighten()
    assert not attacked.targets.equal(bench.train.targets)
    bright = brighten((attacked.images, attacked.targets))[0]
    assert not bright.equal(brighten((attacked.images, bench.train.targets))[0])
    result = bench.run(case("badnets", "brighten"), TINY)
    assert (result.test, result.train) == by_hand(bench, "badnets", images=bright)
    at_test = bench.run(case("badnets", "brighten@test"), TINY)
    assert at_test.test == result.test, "test images have no labels to go by"
    online = bench.run(case("badnets", "brighten@access"), TINY)
    step = {"adapt": lambda model, x, y: (brighten((x, y))[0], y)}
    assert (online.test, online.train) == by_hand(bench, "badnets", **step)
    assert bench.fidelity("badnets", "brighten").gain == pytest.approx(1)


def test_training_time_defences_reach_the_training_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap(model: object, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, (y + 1) % 3

    monkeypatch.setitem(TRAINING, "swap", lambda num_classes: swap)
    result = bench.run(case("clean", "swap"), replace(TINY, epochs=4))
    assert result.train > 0.8 and result.test[-1] < 0.2 and result.place == "training"


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


def test_each_epoch_is_told(bench: Bench) -> None:
    told: list[tuple[int, float]] = []
    result = bench.run(case("clean", "none"), TINY, lambda epoch, accuracy: told.append((epoch, accuracy)))
    assert told == [(1, result.test[0]), (2, result.test[1])]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    made: list[str] = []

    def counting(cls: type, method: str, name: str) -> None:
        before = getattr(cls, method)

        def call(self: object, *args: object, **options: object) -> object:
            made.append(name)
            return before(self, *args, **options)

        monkeypatch.setattr(cls, method, call)

    counting(LSP, "perturb", "lsp")
    counting(OPS, "perturb", "ops")
    counting(Grayscale, "purify", "grayscale")
    return made


def test_seeds_share_the_poisoned_and_the_purified_set(counted: list[str]) -> None:
    bench = Bench(colours(24, 0), colours(12, 1))
    quick = replace(TINY, epochs=1)
    for seed in (0, 1):
        for poison in ("lsp", "ops"):
            bench.run(case(poison, "grayscale", seed), quick)
    assert counted == ["lsp", "grayscale", "ops", "grayscale"]


def test_fidelity_is_of_poisoned_samples_alone(bench: Bench) -> None:
    found = bench.fidelity("badnets", "grayscale")
    assert found.images == int(bench.attacked("badnets").mask.sum()) < 48
    assert found.gain > 0.5 and found.psnr_clean < 40 and found.images_per_second > 0
    assert bench.fidelity("lsp", "mixup") is None
    assert bench.fidelity("clean", "grayscale", sample=7).images == 7
    assert bench.fidelity("clean", "none").images_per_second is None


def test_the_number_of_classes_is_that_of_the_data(bench: Bench) -> None:
    assert bench.num_classes == 3 and len(bench.fingerprint) == 16
    assert run.Bench(colours(48, 0), colours(30, 2)).fingerprint != bench.fingerprint


SMALL = ClassifierSetting("tiny", width=4, epochs=3, network=SmallConvNet, batch_size=16)


def test_a_case_is_the_training_run_tested_after_each_epoch() -> None:
    train, test = colours(48, 0), colours(30, 1)
    found = run_case(train, test, SMALL, seed=2, num_classes=3)
    model, records = SMALL.train(train.images, train.targets, num_classes=3, seed=2)
    expected = [(evaluate(model, test.images, test.targets), record.accuracy) for record in records]
    assert found.test == [accuracy for accuracy, _ in expected]
    assert found.train == expected[-1][1]
    assert found.seconds > 0


def test_the_transform_reaches_training_and_not_the_test() -> None:
    train, test = colours(48, 0), colours(30, 1)
    seen = []

    def blank(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return torch.zeros_like(x)

    found = run_case(train, test, SMALL, seed=0, num_classes=3, transform=blank)
    assert seen == [16] * 9
    assert found.test[-1] < 0.7 < run_case(train, test, SMALL, seed=0, num_classes=3).test[-1]
