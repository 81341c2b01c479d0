"""A case is trained and tested as by hand; rows are the means they claim."""

import pytest
import torch

from puretransforms.benchmark.outcome import Outcome, Row, recovery, run_case, summarize
from puretransforms.data.samples import LabelledImages
from puretransforms.models.resnet import SmallConvNet
from puretransforms.train.classifier import evaluate
from puretransforms.train.settings import ClassifierSetting

TINY = ClassifierSetting("tiny", width=4, epochs=3, network=SmallConvNet, batch_size=16)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny batches: a second thread costs more than it brings."""
    torch.set_num_threads(1)


def colours(n: int) -> LabelledImages:
    labels = torch.arange(n) % 3
    images = torch.randint(0, 120, (n, 3, 8, 8), generator=torch.Generator().manual_seed(n))
    images[torch.arange(n), labels] += 100
    return LabelledImages(images.to(torch.uint8), labels)


def outcome(data: str, seed: int, *test: float) -> Outcome:
    return Outcome(data, "tiny", seed, 0.5, list(test), 10.0 * (seed + 1))


def test_a_case_is_the_training_run_tested_after_each_epoch() -> None:
    train, test = colours(48), colours(30)
    found = run_case("clean", train, test, TINY, seed=2, num_classes=3)
    model, records = TINY.train(train.images, train.targets, num_classes=3, seed=2)
    expected = [(evaluate(model, test.images, test.targets), record.accuracy) for record in records]
    assert found.test == [accuracy for accuracy, _ in expected]
    assert found.train == expected[-1][1]
    assert (found.data, found.setting, found.seed) == ("clean", "tiny", 2) and found.seconds > 0


def test_the_transform_reaches_training_and_not_the_test() -> None:
    train, test = colours(48), colours(30)
    seen = []

    def blank(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return torch.zeros_like(x)

    found = run_case("blank", train, test, TINY, seed=0, num_classes=3, transform=blank)
    assert seen == [16] * 9
    assert found.last < 0.7 < run_case("clean", train, test, TINY, seed=0, num_classes=3).last


def test_last_and_peak() -> None:
    case = outcome("poisoned", 0, 0.2, 0.6, 0.1)
    assert case.last == 0.1 and case.peak == 0.6


def test_rows_are_means_and_deviations_over_the_seeds() -> None:
    rows = summarize([outcome("b", 0, 0.2, 0.1), outcome("a", 0, 0.9), outcome("b", 1, 0.3, 0.3)])
    assert [(row.data, row.seeds) for row in rows] == [("b", 2), ("a", 1)]
    b, a = rows
    assert b.last == pytest.approx(20) and b.last_std == pytest.approx(200**0.5)
    assert b.peak == pytest.approx(25) and b.peak_std == pytest.approx(50**0.5)
    assert b.train == 50 and b.seconds == 15 and a.last_std == 0


def _row(data: str, last: float) -> Row:
    return Row(data, 1, last, 1.25, last + 5, 0.5, 50.0, 15.4)


@pytest.mark.parametrize(
    ("clean", "poisoned", "purified", "sentence"),
    [
        (90.0, 10.0, 70.0, "purified: +60.0 points, 75% of the 80.0 that the poison cost"),
        (90.0, 10.0, 6.0, "purified: -4.0 points, -5% of the 80.0 that the poison cost"),
        (50.0, 50.0, 45.0, "purified: -5.0 points; the poison cost nothing (+0.0 points)"),
        (50.0, 52.0, 51.0, "purified: -1.0 points; the poison cost nothing (+2.0 points)"),
    ],
)
def test_recovery(clean: float, poisoned: float, purified: float, sentence: str) -> None:
    rows = [_row("clean", clean), _row("poisoned", poisoned), _row("purified", purified)]
    assert recovery(rows, "purified") == sentence
