"""Training a classifier: it learns, reruns are bit-equal, global state is left alone, bad data is refused."""

import json
from itertools import islice

import pytest
import torch

from puretransforms.errors import DivergenceError, LabelError, NoImageError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.train.classifier import EpochRecord, evaluate, predict, train_classifier
from puretransforms.train.recipes import OneCycleSGD
from puretransforms.train.settings import CPU_SETTING, DIGITS_SETTING, ClassifierSetting


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny batches: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def stripes() -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes by colour, noisy: 120 uint8 images ``[3, 12, 12]`` and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = torch.randint(0, 120, (120, 3, 12, 12), generator=generator)
    images[torch.arange(120), labels] += 100
    return images.to(torch.uint8), labels


def net(num_classes: int = 3) -> SmallConvNet:
    torch.manual_seed(5)
    return SmallConvNet(num_classes, width=4)


def trained(images: torch.Tensor, labels: torch.Tensor, **options: object) -> tuple[SmallConvNet, list[EpochRecord]]:
    model = net()
    return model, list(train_classifier(model, images, labels, **{"epochs": 2, "batch_size": 32, **options}))


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def same_history(a: list[EpochRecord], b: list[EpochRecord]) -> bool:
    return [(r.loss, r.accuracy) for r in a] == [(r.loss, r.accuracy) for r in b]


@pytest.mark.parametrize("dtype", ["auto", None, torch.bfloat16])
def test_learns_a_separable_set(stripes: tuple[torch.Tensor, torch.Tensor], dtype: object) -> None:
    images, labels = stripes
    model, records = trained(images[:90], labels[:90], epochs=8, dtype=dtype)
    assert evaluate(model, images[90:], labels[90:]) == 1
    assert records[-1].loss < 0.2 < records[0].loss
    assert evaluate(net(), images[90:], labels[90:]) < 0.7


def test_one_record_an_epoch(stripes: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, records = trained(*stripes, epochs=4, recipe=OneCycleSGD(0.1))
    assert [r.epoch for r in records] == [1, 2, 3, 4]
    assert all(0 <= r.accuracy <= 1 and r.seconds > 0 and 0 < r.lr <= 0.1 for r in records)
    assert records[0].lr > records[1].lr > records[2].lr > records[3].lr
    assert records[3].lr < 1e-5
    with pytest.raises(AttributeError):
        records[0].loss = 0.0


def test_loss_and_accuracy_are_means_over_all_samples(stripes: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = stripes
    model = net()
    (record,) = train_classifier(
        model, images, labels, epochs=1, batch_size=50, recipe=OneCycleSGD(1e-12, 0.0), augment=None, dtype=None
    )
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    before = net().train()
    logits = torch.cat([before(images[rows].float() / 255) for rows in order.tensor_split(3)])
    expected = torch.nn.functional.cross_entropy(logits, labels[order])
    assert record.loss == pytest.approx(expected.item(), rel=1e-4)
    assert record.accuracy == (logits.argmax(1) == labels[order]).double().mean().item()


def test_reruns_are_bit_equal_and_the_seed_matters(stripes: tuple[torch.Tensor, torch.Tensor]) -> None:
    (a, history), (b, again), (c, other) = (trained(*stripes, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(weights(a), weights(b)) and same_history(history, again)
    assert not torch.equal(weights(a), weights(c)) and not same_history(history, other)


def test_the_seed_also_fixes_what_the_transform_draws_and_global_state_is_left_alone(
    stripes: tuple[torch.Tensor, torch.Tensor],
) -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)

    torch.manual_seed(1)
    records = train_classifier(net(), *stripes, epochs=2, transform=noisy)
    first = next(records)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = next(records)
    assert torch.equal(torch.get_rng_state(), state)
    _, plain = trained(*stripes, batch_size=128)
    _, again = trained(*stripes, batch_size=128, transform=noisy)
    assert same_history([first, second], again) and not same_history(plain, again)


def test_transform_sees_augmented_floats_in_the_unit_range(stripes: tuple[torch.Tensor, torch.Tensor]) -> None:
    seen = []

    def spy(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    trained(*stripes, epochs=1, transform=spy)
    assert [len(x) for x in seen] == [30, 30, 30, 30]
    x = torch.cat(seen)
    assert x.dtype == torch.float32 and not x.requires_grad
    assert x.min() >= 0 and 0.7 < x.max() <= 1
    assert (x == 0).all(1).any(), "a crop of the zero-padded image shows its border"


def test_every_sample_is_seen_once_an_epoch(stripes: tuple[torch.Tensor, torch.Tensor]) -> None:
    images = torch.arange(120, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    seen = []

    def spy(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(x[:, 0, 0, 0])
        return x

    trained(images, stripes[1], epochs=2, batch_size=50, augment=spy)
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert torch.equal(first.sort().values, torch.arange(120, dtype=torch.uint8))
    assert torch.equal(second.sort().values, torch.arange(120, dtype=torch.uint8))
    assert not torch.equal(first, second)


def test_nothing_happens_before_the_first_record_and_evaluation_between_epochs_is_harmless(
    stripes: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = net()
    before = weights(model)
    records = train_classifier(model, *stripes, epochs=2, batch_size=32)
    assert torch.equal(weights(model), before)
    for _ in records:
        evaluate(model.eval(), *stripes)
    undisturbed, _ = trained(*stripes)
    assert torch.equal(weights(model), weights(undisturbed))


def test_label_smoothing_and_weight_decay_reach_the_loss(stripes: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, plain = trained(*stripes)
    _, smoothed = trained(*stripes, label_smoothing=0.5)
    _, decayed = trained(*stripes, recipe=OneCycleSGD(weight_decay=0.5))
    assert smoothed[-1].loss > plain[-1].loss + 0.1
    assert not same_history(plain, decayed)


def test_a_diverging_run_is_stopped(stripes: tuple[torch.Tensor, torch.Tensor]) -> None:
    records = train_classifier(net(), *stripes, epochs=3, transform=lambda x: x * float("nan"))
    with pytest.raises(DivergenceError, match=r"got nan in epoch 1 .*lower its learning rate"):
        next(records)


@pytest.mark.parametrize("bad", [3, -1])
def test_labels_outside_the_logits_are_refused(stripes: tuple[torch.Tensor, torch.Tensor], bad: int) -> None:
    labels = stripes[1].clone()
    labels[7] = bad
    with pytest.raises(LabelError, match=f"expected labels from 0 to 2, got {bad}"):
        next(train_classifier(net(), stripes[0], labels, epochs=1))


@pytest.mark.parametrize("labels", [torch.zeros(119, dtype=torch.int64), torch.zeros(120), torch.zeros(120, 3).long()])
def test_labels_of_the_wrong_shape_or_type_are_refused(
    stripes: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor
) -> None:
    with pytest.raises(LabelError, match="one integer label for each of 120 images"):
        next(train_classifier(net(), stripes[0], labels, epochs=1))


@pytest.mark.parametrize("images", [torch.rand(6, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_images_that_are_not_a_uint8_batch_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(NoImageError, match=r"expected uint8 images \[N, C, H, W\]"):
        next(train_classifier(net(), images, torch.zeros(len(images), dtype=torch.int64), epochs=1))
    with pytest.raises(NoImageError, match="expected uint8 images"):
        predict(net(), images)


def test_predict_equals_the_model_in_evaluation_mode_and_restores_its_mode(
    stripes: tuple[torch.Tensor, torch.Tensor],
) -> None:
    images, labels = stripes
    model = net().train()
    found = predict(model, images, batch_size=7, dtype=None)
    assert model.training
    with torch.no_grad():
        expected = model.eval()(images.float() / 255).argmax(1)
    assert torch.equal(found, expected)
    assert evaluate(model, images, labels, dtype=None) == (expected == labels).double().mean().item()
    with pytest.raises(LabelError, match="one label for each of 120 images"):
        evaluate(model, images, labels[:5])


def test_a_setting_makes_and_trains_its_own_model(stripes: tuple[torch.Tensor, torch.Tensor]) -> None:
    setting = ClassifierSetting("tiny", width=4, epochs=2, batch_size=40)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(runs))
        state = torch.get_rng_state()
        model, records = setting.train(*stripes, num_classes=3, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert len(list(records)) == 2
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_a_setting_describes_itself_in_plain_json() -> None:
    described = json.loads(json.dumps(DIGITS_SETTING.describe()))
    assert described["name"] == "digits" and described["network"] == "SmallConvNet" and described["width"] == 16
    assert described["augment"] == "random_crop_flip(padding=2, flip=False)"
    assert CPU_SETTING.describe()["augment"] == "random_crop_flip"


def test_the_cpu_setting_is_a_narrow_resnet() -> None:
    model, records = CPU_SETTING.train(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert len(list(islice(records, 0))) == 0
