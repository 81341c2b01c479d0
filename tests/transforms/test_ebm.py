"""EBMPurify: the chain between its two range maps, its weights, the energy filter, and the batch an image is in."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F

from puretransforms.errors import NoImageError, RangeError, WeightsMismatchError, WeightsUnavailableError
from puretransforms.functional.random import KeyedNoise, content_ids
from puretransforms.models.energy import PUREGEN_LAYERS, EnergyNet, FoldedEnergyNet
from puretransforms.transforms.ebm import EBMPurify

SMALL = {"weights": None, "nf": 8, "steps": 3, "seed": 0}


def pixels(n: int = 4, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def stronger(t: EBMPurify, factor: float = 30.0) -> EBMPurify:
    """An untrained net hardly drifts: scale its energy up, so that the gradient shows in the result."""
    with torch.no_grad():
        t.net.head.weight.mul_(factor)
    return t


@pytest.mark.parametrize(("arch", "kind"), [("small", FoldedEnergyNet), ("published", EnergyNet)])
def test_purify_is_the_published_chain_between_two_range_maps(arch, kind):
    t = stronger(EBMPurify(weights=None, arch=arch, nf=8, steps=10, precision="fp32"))
    twin = kind(8).double()
    twin.load_state_dict(t.net.state_dict())
    x, noise = torch.rand(3, 3, 16, 16), KeyedNoise(0, torch.arange(3))
    y = x.double() * 2 - 1
    for step in range(10):
        leaf = y.clone().requires_grad_()
        twin(leaf).sum().backward()
        y = y - 0.78125 * leaf.grad + 0.0125 * noise.normal(step, 3, 16, 16).double()
    want = (y.clamp(-1, 1) + 1) / 2
    assert (t.purify(x, noise) - want).abs().max() < 1e-6
    assert (want - x).abs().max() > 0.05 and want.min() == 0 and want.max() == 1


def test_images_and_noise_meet_by_content_under_a_seed():
    t, x = EBMPurify(**SMALL, precision="fp32"), pixels()
    by_hand = t.purify(x / 255, KeyedNoise(0, content_ids(x))).mul(255).round().to(torch.uint8)
    assert torch.equal(t(x), by_hand)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_an_image_does_not_depend_on_its_batch_or_chunk(precision):
    options = {"weights": None, "nf": 16, "steps": 10, "seed": 0, "precision": precision}
    x = pixels(20, 32)
    whole = stronger(EBMPurify(**options))(x)
    for chunk_size in (1, 7, 16):
        apart = (stronger(EBMPurify(**options, chunk_size=chunk_size))(x).int() - whole.int()).abs()
        assert (apart <= 1).double().mean() >= 0.999
    alone = stronger(EBMPurify(**options))(x[[5]])
    assert ((alone.int() - whole[[5]].int()).abs() <= 1).double().mean() >= 0.999
    assert (whole != x).double().mean() > 0.5


def test_bfloat16_stays_close_to_float32():
    x = pixels(8, 32)
    half, full = (stronger(EBMPurify(weights=None, steps=10, seed=0, precision=p))(x / 255) for p in ("bf16", "fp32"))
    assert 0 < (half - full).norm() < 0.03 * (full - x / 255).norm()


def test_values_that_leave_the_range_are_clamped_not_wrapped():
    t = EBMPurify(**SMALL | {"steps": 20})
    for shade in (0, 255):
        x = torch.full((2, 3, 16, 16), shade, dtype=torch.uint8)
        assert (t(x).int() - shade).abs().max() < 60
        assert (t(x) == shade).double().mean() > 0.2


def test_repeats_go_on_with_new_noise():
    x = torch.rand(2, 3, 16, 16) * 0.4 + 0.3  # far from the clamps, which stand between repeats
    twice = EBMPurify(**SMALL, repeats=2)(x)
    assert torch.allclose(twice, EBMPurify(**SMALL | {"steps": 6})(x), rtol=0, atol=1e-6)
    assert (twice - EBMPurify(**SMALL)(x)).abs().mean() > 0.003


def test_no_steps_change_nothing():
    assert torch.equal(EBMPurify(**SMALL | {"steps": 0})(pixels()), pixels())


# --- energies and the filter --------------------------------------------------------------------------------------


def test_energy_takes_what_the_transform_takes():
    t, x = EBMPurify(**SMALL), pixels(6)
    energies = t.energy(x)
    assert energies.shape == (6,) and energies.dtype == torch.float32 and not energies.requires_grad
    with torch.no_grad():
        assert torch.allclose(energies, t.net(x / 127.5 - 1), rtol=0, atol=1e-6)
    assert torch.allclose(t.energy(x / 255), energies, rtol=0, atol=1e-6)
    assert torch.allclose(t.energy(x.view(2, 3, 3, 16, 16)), energies, rtol=0, atol=1e-6)
    assert torch.allclose(t.energy(F.to_pil_image(x[2])), energies[[2]], rtol=0, atol=1e-6)
    assert torch.allclose(EBMPurify(**SMALL, chunk_size=4).energy(x), energies, rtol=0, atol=1e-6)
    grey = x[:, :1]
    assert torch.allclose(t.energy(grey), t.energy(grey.expand(-1, 3, -1, -1)), rtol=0, atol=1e-6)
    with torch.inference_mode():
        assert torch.equal(t.energy(x), energies)
    with pytest.raises(NoImageError, match=r"v2\.ToImage"):
        t.energy(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(NoImageError, match="expected 3 channels"):
        t.energy(torch.rand(1, 4, 8, 8))
    with pytest.raises(RangeError):
        t.energy(x.float())


def test_the_filter_purifies_the_highest_energies_and_leaves_the_rest_untouched():
    x, t = pixels(10), EBMPurify(**SMALL)
    energies = t.energy(x)
    threshold = t.fit_threshold(x, 0.3)
    chosen = energies >= threshold
    assert chosen.sum() == 3 and energies[chosen].min() > energies[~chosen].max()
    filtered, everything = EBMPurify(**SMALL, threshold=threshold)(x), t(x)
    assert torch.equal(filtered[~chosen], x[~chosen])
    assert torch.equal(filtered[chosen], everything[chosen]) and not torch.equal(filtered[chosen], x[chosen])


def test_thresholds_at_the_ends_and_from_several_batches():
    x, t = pixels(10), EBMPurify(**SMALL)
    assert torch.equal(EBMPurify(**SMALL, threshold=t.fit_threshold(x, 1.0))(x), t(x))
    assert torch.equal(EBMPurify(**SMALL, threshold=t.fit_threshold(x, 0.0))(x), x)
    in_parts = t.fit_threshold([x[:7], *(F.to_pil_image(image) for image in x[7:])], 0.3)
    assert in_parts == pytest.approx(t.fit_threshold(x, 0.3), abs=1e-6)
    with pytest.raises(ValueError, match="fraction"):
        t.fit_threshold(x, 1.5)


# --- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "nf"), [("small", 8), ("small", None), ("published", 8)])
def test_weights_survive_saving_and_loading(arch, nf, tmp_path):
    t = stronger(EBMPurify(weights=None, arch=arch, nf=nf, steps=2, temperature=2e-4, seed=0))
    t.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "weights" not in config and (config["arch"], config["steps"]) == (arch, 2)
    assert config["step_size"] == 0.0125 and config["temperature"] == 2e-4
    again = EBMPurify.from_pretrained(tmp_path)
    assert torch.equal(again(pixels()), t(pixels())) and repr(again) == repr(t)
    assert EBMPurify.from_pretrained(tmp_path, steps=7).steps == 7
    by_folder = EBMPurify(tmp_path, arch=arch, nf=nf, steps=2, temperature=2e-4, seed=0)
    assert torch.equal(by_folder(pixels()), t(pixels()))
    by_folder.save_pretrained(tmp_path / "copy")
    assert load_file(tmp_path / "copy" / "model.safetensors").keys() == t.state_dict().keys()
    assert torch.equal(EBMPurify.from_pretrained(tmp_path / "copy")(pixels()), t(pixels()))


def test_a_checkpoint_of_the_authors_loads_from_its_folder(tmp_path):
    t = EBMPurify(weights=None, arch="published", nf=8, steps=2, seed=0)
    theirs = {ours: layer for layer, ours in PUREGEN_LAYERS.items()}
    state = {}
    for name, tensor in t.net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        state[f"{theirs[layer]}.{kind}"] = torch.randn(tensor.shape) * 0.1
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"nf": 8, "patch_size": 1}))
    t.net.load_state_dict(state)
    loaded = EBMPurify.from_pretrained(tmp_path, steps=2, seed=0)
    assert (loaded.arch, loaded.nf) == ("published", 8) and (loaded.step_size, loaded.temperature) == (1.25e-2, 1e-4)
    assert torch.equal(loaded.energy(pixels()), t.energy(pixels())) and torch.equal(loaded(pixels()), t(pixels()))
    by_folder = EBMPurify(tmp_path, arch="published", nf=8)
    assert torch.equal(by_folder.energy(pixels()), t.energy(pixels()))
    (tmp_path / "config.json").write_text(json.dumps({"nf": 8, "patch_size": 2}))
    with pytest.raises(WeightsMismatchError, match="patch_size=1"):
        EBMPurify.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"nf": 8, "patch_size": 1}))
    save_file(state | {"block9.c1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"block9\.c1\.weight"):
        EBMPurify.from_pretrained(tmp_path)


def test_missing_weights_never_become_random_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsUnavailableError, match="'nowhere', which is no folder here"):
        EBMPurify("nowhere")
    EBMPurify(**SMALL).save_pretrained(tmp_path)
    for options in ({"arch": "published"}, {"nf": 16}):
        with pytest.raises(WeightsMismatchError):
            EBMPurify(tmp_path, **options)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"sha256": None}))
    state = load_file(tmp_path / "model.safetensors")
    state.pop("net.head.weight")
    save_file(state, tmp_path / "model.safetensors")
    for make in (EBMPurify, EBMPurify.from_pretrained):
        with pytest.raises(WeightsMismatchError, match=r"net\.head\.weight"):
            make(tmp_path)


def test_an_untrained_purifier_is_always_the_same_and_draws_nothing_global():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    a, b = EBMPurify(**SMALL), EBMPurify(**SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a(pixels()), b(pixels()))


# --- homes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_gradients_give_the_same_images(mode):
    t = EBMPurify(**SMALL)
    want = t(pixels())
    with mode():
        assert torch.equal(t(pixels()), want)
        created_inside = EBMPurify(**SMALL)
        assert torch.equal(created_inside(pixels()), want)
    assert all(p.grad is None and not p.requires_grad for p in t.parameters())


@pytest.mark.parametrize("options", [{}, {"threshold": -1e9}, {"repeats": 2}])
def test_gradients_reach_the_image_and_no_parameter(options):
    t = stronger(EBMPurify(**SMALL | {"steps": 2}, precision="fp32", differentiable=True, **options))
    x = (torch.rand(2, 3, 8, 8) * 0.4 + 0.3).requires_grad_()
    t(x).sum().backward()
    assert x.grad.abs().min() > 0 and not torch.equal(x.grad, torch.ones_like(x))
    assert all(p.grad is None for p in t.parameters())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_dataloader_worker():
    t = EBMPurify(**SMALL)
    samples = [(image, i) for i, image in enumerate(pixels(4))]
    loader = DataLoader(
        samples, batch_size=2, num_workers=1, multiprocessing_context="fork", collate_fn=lambda part: [*map(t, part)]
    )
    out = [sample for batch in loader for sample in batch]
    assert [label for _, label in out] == [0, 1, 2, 3]
    assert torch.equal(torch.stack([image for image, _ in out]), torch.stack([t(image) for image in pixels(4)]))


def test_odd_sizes_and_pil():
    t = EBMPurify(**SMALL)
    assert t(pixels(2, 17)).shape == (2, 3, 17, 17)
    out = t(PIL.Image.new("L", (19, 11), 90))
    assert out.mode == "L" and out.size == (19, 11) and out.getextrema() != (90, 90)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "huge"}, "arch"),
        ({"precision": "fp8"}, "precision"),
        ({"steps": -1}, "steps as a whole number of at least 0"),
        ({"repeats": 0}, "repeats as a whole number of at least 1"),
        ({"nf": 0}, "nf as a whole number of at least 1"),
        ({"step_size": 0.0}, "step_size as a finite number above 0"),
        ({"temperature": float("inf")}, "temperature as a finite number"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EBMPurify(**SMALL | options)
