"""Every purifier of the registry makes a column in its place; the training-time defences do what they are called."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from puretransforms.auto import AutoPurify
from puretransforms.benchmark import defences
from puretransforms.benchmark.defences import (
    TRAINING,
    adversarial,
    apply_purifier,
    canonical,
    error_maximizing,
    find_defence,
    grey_and_noise,
    mixing,
)
from puretransforms.data.samples import LabelledImages
from puretransforms.errors import BenchmarkError, PureTransformsError, RegistryError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.registry import list_purifiers
from puretransforms.transforms.base import PureTransform
from puretransforms.transforms.vae import VAEPurify

TOYS = {
    "chain": 'steps=["coin", "jpeg"]',
    "ebm": "weights=null:nf=4:steps=2",
    "vae": "weights=null:width=4:latent=8:schedule=short",
}
FITTED_ELSEWHERE = {"ebm", "unet", "vae"}  # a fit of theirs takes longer than a test


def data() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return LabelledImages(images, torch.arange(24) % 3)


@pytest.mark.parametrize("name", list_purifiers())
def test_every_purifier_has_a_place(name: str) -> None:
    defence = find_defence(name)
    assert defence.place == {"coin": "access", "auto": "advised"}.get(name, "once")
    for place in ("once", "access", "test"):
        assert find_defence(f"{name}@{place}").place == place


@pytest.mark.parametrize("name", sorted(set(list_purifiers()) - FITTED_ELSEWHERE - {"auto"}))
@pytest.mark.parametrize("place", ["once", "access"])
def test_every_purifier_is_made_and_runs(name: str, place: str) -> None:
    spec = f"{name}:{TOYS[name]}" if name in TOYS else name
    made = find_defence(f"{spec}@{place}").purifier(data())
    x = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert isinstance(made, PureTransform) and made.fitted
    assert made(x).shape == x.shape and not torch.equal(made(x), x)
    if place == "once":
        assert torch.equal(made(x), made(x.flip(0)).flip(0)), "the same for an image wherever it stands"
    else:
        assert made.seed is None and torch.equal(made(x), made(x)) != made.randomized


@pytest.mark.parametrize("name", sorted(TRAINING))
def test_every_training_time_defence_runs(name: str) -> None:
    defence = find_defence(name)
    x = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    mixed, targets = defence.training(3)(SmallConvNet(3, width=4), x, torch.arange(6) % 3)
    assert defence.place == "training" and mixed.shape == x.shape and len(targets) == 6
    assert not torch.equal(mixed, x) and 0 <= float(mixed.min()) and float(mixed.max()) <= 1


def test_what_is_not_fitted_is_fitted_to_the_poisoned_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict = {}

    def fit(self: VAEPurify, dataset: LabelledImages, **options: object) -> VAEPurify:
        asked.update(options, dataset=dataset, schedule=self.schedule)
        return self

    monkeypatch.setattr(VAEPurify, "fit", fit)
    poisoned = data()
    for device in (None, "cuda"):
        monkeypatch.setattr(defences, "work_device", lambda device=device: device)
        find_defence(f"vae:{TOYS['vae']}").purifier(poisoned, tmp_path / "fit")
        assert asked["dataset"] is poisoned and asked["device"] == device and asked["checkpoint"] == tmp_path / "fit"
    assert "short" in str(asked["schedule"])
    asked.clear()
    monkeypatch.undo()
    assert find_defence("projection").purifier(poisoned).basis.shape == (3 * 16 * 16, 3)


def test_auto_scans_the_poisoned_set() -> None:
    quiet = find_defence("auto").purifier(data())
    assert quiet.chain == [] and quiet.result is not None
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(100, 156, (120, 3, 16, 16), dtype=torch.uint8, generator=generator)
    targets = torch.arange(120) % 3
    images[:, :, 4, 4] = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)[targets]
    found = find_defence("auto").purifier(LabelledImages(images, targets))
    assert found.result.verdict.kind == "triggered suspects" and found.chain[0]["name"] == "jpeg"
    assert not found.online and found.seed == 0


def test_auto_draws_anew_at_every_access_where_that_protects_better(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: AutoPurify, source: object, **options: object) -> AutoPurify:
        return AutoPurify([{"name": "coin", "alpha": 2.0}], seed=self.seed)

    monkeypatch.setattr(AutoPurify, "fit", fit)
    x = data().images
    made, held = find_defence("auto").purifier(data()), find_defence("auto@once").purifier(data())
    assert made.online and not torch.equal(made(x), made(x)) and torch.equal(held(x), held(x))


@pytest.mark.parametrize("mix", [v2.MixUp, v2.CutMix])
def test_mixing_keeps_the_share_of_each_class(mix: type) -> None:
    torch.manual_seed(0)
    _, targets = mixing(mix, 3)(nn.Identity(), torch.rand(6, 3, 8, 8), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert targets.shape == (6, 3) and torch.allclose(targets.sum(1), torch.ones(6))
    assert 0 < int((targets > 0).sum(1).max()) <= 2 and (targets.max(1).values < 1).any()


def test_adversarial_examples_are_near_and_worse() -> None:
    torch.manual_seed(0)
    model = SmallConvNet(3, width=8).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.rand(8, 3, 16, 16), torch.arange(8) % 3
    found, labels = adversarial(epsilon=8 / 255)(model, x, y)
    assert (found - x).abs().max() <= 8 / 255 + 1e-6 and found.min() >= 0 and found.max() <= 1
    assert torch.equal(labels, y) and model.training and not found.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    assert cross_entropy(model(found), y) > cross_entropy(model(x), y) + 1e-3


def test_of_several_views_the_worst_is_taken() -> None:
    torch.manual_seed(0)
    model = SmallConvNet(3, width=8).train()
    x, y = torch.rand(32, 3, 16, 16), torch.arange(32) % 3

    def loss(views: int) -> float:
        torch.manual_seed(1)
        found, _ = error_maximizing(views)(model, x, y)
        assert model.training
        with torch.no_grad():
            return float(cross_entropy(model.eval()(found), y))

    assert loss(8) > loss(1) + 1e-3


def test_some_are_grey_and_all_have_noise() -> None:
    torch.manual_seed(0)
    x = torch.full((400, 3, 8, 8), 0.5)
    x[:, 0] = 0.3
    found, _ = grey_and_noise(p=0.4, sigma=0.05)(nn.Identity(), x, torch.zeros(400))
    grey = (found[:, 0] - found[:, 1]).mean((1, 2)).abs() < 0.1
    assert 0.3 < grey.double().mean() < 0.5
    assert 0.04 < (found[:, 2] - 0.5)[~grey].std() < 0.06


def test_labels_go_to_the_purifier_that_reads_them() -> None:
    seen: list = []

    class Reader(nn.Module):
        def forward(self, sample: object) -> object:
            seen.append(sample)
            return sample

    reader, x, y = Reader(), torch.zeros(2, 3, 4, 4), torch.arange(2)
    assert apply_purifier(reader, x, y) is x and seen[-1] is x
    reader.reads_labels = True
    assert apply_purifier(reader, x, y) is x and seen[-1][1].equal(y)
    assert apply_purifier(reader, x) is x and seen[-1] is x


def test_one_column_has_one_name() -> None:
    assert canonical("coin@access") == "coin" and canonical("jpeg:quality=10@once") == "jpeg:quality=10"
    assert canonical("coin@once") == "coin@once" and canonical("none") == "none"
    assert canonical("auto@once") == "auto@once", "auto alone goes where it is advised to"


def test_an_at_inside_a_value_is_no_place(tmp_path: Path) -> None:
    assert find_defence("ebm:weights=someone/ebm@v1").options == {"weights": "someone/ebm@v1"}
    assert find_defence("ebm:weights=someone/ebm@v1@test").place == "test"


@pytest.mark.parametrize("name", ["ebm", "vae"])
def test_missing_weights_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(PureTransformsError, match="nowhere"):
        find_defence(f"{name}:weights={tmp_path / 'nowhere'}").purifier(data())


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("bleach", RegistryError, "expected a purifier among auto, .* may also be none, adversarial"),
        ("coin@twice", BenchmarkError, "a place among once, access, test after @, got 'coin@twice'"),
        ("mixup@once", BenchmarkError, "'mixup' without a place"),
        ("none:quality=3", BenchmarkError, "'none' without"),
        ("adversarial:epsilom=3", BenchmarkError, "makes no defence: .*epsilom"),
    ],
)
def test_words_that_name_no_column_are_refused(spec: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        find_defence(spec)
