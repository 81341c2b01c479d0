"""Each named defence is built; the training-time ones do what they are called."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from puretransforms.auto import AutoPurify
from puretransforms.benchmark.defences import DEFENCES, Defence, adversarial, find_defence, mixing
from puretransforms.data.samples import LabelledImages
from puretransforms.errors import BenchmarkError, PureTransformsError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.transforms.base import PureTransform
from puretransforms.transforms.vae import VAEPurify

WITH_WEIGHTS = {"ebm", "vae"}
FITTED = {"auto", "vae_fitted", "vae_fitted_small"}


def data() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return LabelledImages(images, torch.arange(24) % 3)


@pytest.mark.parametrize("name", sorted(set(DEFENCES) - WITH_WEIGHTS - FITTED))
def test_every_defence_is_built_and_runs(name: str) -> None:
    defence, weights = find_defence(name)
    made = defence.make(data(), 3, weights)
    x = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    if defence.place == "step":
        torch.manual_seed(0)
        mixed, targets = made(SmallConvNet(3, width=4), x, torch.arange(6) % 3)
        assert mixed.shape == x.shape and len(targets) == 6
    elif defence.place != "nowhere":
        assert isinstance(made, PureTransform)
        assert made(x).shape == x.shape and not torch.equal(made(x), x)
    if defence.place == "stored":
        assert torch.equal(made(x), made(x.flip(0)).flip(0)), "the same for an image wherever it stands"


def test_auto_scans_the_poisoned_set() -> None:
    quiet = find_defence("auto")[0].make(data(), 3, None)
    assert quiet.chain == [] and quiet.result is not None
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(100, 156, (120, 3, 16, 16), dtype=torch.uint8, generator=generator)
    targets = torch.arange(120) % 3
    images[:, :, 4, 4] = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)[targets]
    found = find_defence("auto")[0].make(LabelledImages(images, targets), 3, None)
    assert found.result.verdict.kind == "triggered suspects" and found.chain == [{"name": "jpeg", "quality": 10}]
    assert not found.online and found.seed == 0


def test_auto_draws_anew_at_every_access_where_that_protects_better(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: AutoPurify, source: object, **options: object) -> AutoPurify:
        return AutoPurify([{"name": "coin", "alpha": 2.0}], seed=self.seed)

    monkeypatch.setattr(AutoPurify, "fit", fit)
    defence, _ = find_defence("auto")
    made, x = defence.make(data(), 3, None), data().images
    assert defence.place == "advised" and made.online and not torch.equal(made(x), made(x))


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


def test_weights_follow_the_name() -> None:
    assert find_defence("gray") == (DEFENCES["gray"], None)
    assert find_defence("ebm=some/where") == (DEFENCES["ebm"], Path("some/where"))


@pytest.mark.parametrize("name", sorted(WITH_WEIGHTS))
def test_missing_weights_are_named(name: str, tmp_path: Path) -> None:
    defence, weights = find_defence(f"{name}={tmp_path / 'nowhere'}")
    with pytest.raises(PureTransformsError, match="nowhere"):
        defence.make(data(), 3, weights)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    ("name", "size"), [("vae_fitted", ("published", "published")), ("vae_fitted_small", ("short", "small"))]
)
def test_the_fitted_vae_sees_the_poisoned_set_at_the_size_of_its_name(
    name: str, size: tuple[str, str], gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict = {}

    def fit(dataset: object, **options: object) -> VAEPurify:
        asked.update(options, dataset=dataset)
        return VAEPurify(weights=None, width=4, latent=8)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(VAEPurify, "fit", fit)
    defence, weights = find_defence(name)
    defence.make(data(), 3, weights)
    assert asked["dataset"][0].equal(data().images) and asked["dataset"][1].equal(data().targets)
    assert (asked["schedule"], asked["arch"]) == size
    assert asked["device"] == ("cuda" if gpu else None)
    assert defence.labelled and asked["num_classes"] == 3


def test_unknown_words_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="expected a purifier among none, adversarial"):
        find_defence("bleach")
    with pytest.raises(ValueError, match="place among nowhere, stored"):
        Defence("somewhere", lambda *_: None)
