"""VAEPurify: its three modes, what it does with labels, the fit with a break in it, and its weights."""

import json
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from puretransforms.errors import (
    LabelError,
    ManifestMismatchError,
    NoImageError,
    NotFittedError,
    WeightsCorruptedError,
    WeightsMismatchError,
    WeightsUnavailableError,
)
from puretransforms.functional.random import KeyedNoise, content_ids
from puretransforms.models.dvae import DVAE
from puretransforms.registry import create
from puretransforms.train.rate import FitSchedule
from puretransforms.transforms import vae
from puretransforms.transforms.vae import VAEPurify

SMALL = {"weights": None, "width": 4, "latent": 8, "seed": 0}
TINY = FitSchedule(epochs=2, batch_size=8, lr=1e-3)


def pixels(n: int = 4, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


LABELS = torch.arange(24) % 3
FIT = ("schedule", "num_classes", "seed", "device", "compiled", "checkpoint", "save_every", "on_record")


def untrained(**options) -> VAEPurify:
    """One that may be called all the same."""
    purifier = VAEPurify(**SMALL | options)
    purifier._trained = True
    return purifier


def fit(dataset, **options) -> VAEPurify:
    own = {name: options.pop(name) for name in FIT if name in options}
    return VAEPurify(weights=None, **{"arch": "published"} | options).fit(dataset, **own)


@pytest.fixture(scope="module")
def fitted() -> VAEPurify:
    return fit((pixels(24), LABELS), schedule=TINY, width=4, latent=8, precision="fp32")


# --- the three modes ------------------------------------------------------------------------------------------------


def test_with_labels_both_stages_subtract_and_the_second_reconstructs(fitted, monkeypatch):
    """The arithmetic of the paper, in float64 on the nets as they are, nothing folded."""
    x, labels = pixels(6), LABELS[:6]
    nets = []
    for own in (fitted.first, fitted.net):
        net = DVAE(3, 4, 8, size=16).double().eval()
        net.load_state_dict(own.state_dict())
        nets.append(net)
    with torch.no_grad():
        x0 = x.double() / 255
        p1 = nets[0](x0, labels).perturbation
        x1 = (x0 - p1).clamp(0, 1)
        p2 = nets[1](x1, labels).perturbation
        x2 = (x1 - p2).clamp(0, 1)
        want = nets[1](x2, labels).reconstruction
        without = nets[1](x0, labels).reconstruction
    out, kept = fitted(x / 255, labels)
    assert kept is labels and (out - want).abs().max() < 1e-5
    assert (fitted.perturbation(x, labels) - (p1 + p2)).abs().max() < 1e-5
    assert (fitted(x / 255) - without).abs().max() < 1e-5
    assert (want - without).abs().max() > 1e-3
    assert ((fitted(x, labels)[0].double() / 255 - want).abs() <= 0.5 / 255 + 1e-5).all()
    monkeypatch.setattr(vae, "working_dtype", lambda precision, device: torch.float64)
    assert (fitted(x / 255, labels)[0] - want).abs().max() < 1e-6
    assert (fitted.perturbation(x, labels) - (p1 + p2)).abs().max() < 1e-6


def test_without_a_fit_it_is_the_reconstruction_of_the_mean_code():
    t = untrained(precision="fp32")
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        want = t.net.eval()(x).reconstruction
    assert (t(x) - want).abs().max() < 1e-5
    image, label = t((x, torch.arange(3)))  # labels pass by, unused
    assert torch.equal(image, t(x)) and label.tolist() == [0, 1, 2]
    assert torch.equal(untrained(seed=1, precision="fp32")(x), t(x)), "nothing is drawn"


def test_one_that_was_never_fitted_is_refused_by_name():
    for purifier in (
        VAEPurify(**SMALL),
        create("vae:weights=null:width=4:latent=8"),
        VAEPurify(**SMALL, num_classes=3),
    ):
        for sample in ((pixels(),), (pixels() / 255, LABELS[:4]), (PIL.Image.new("RGB", (16, 16)),)):
            with pytest.raises(NotFittedError, match=r"VAEPurify to be fitted.*call fit\(dataset\), or use clean\(\)"):
                purifier(*sample)
        assert not purifier.fitted


def test_sampling_draws_a_code_for_each_image():
    x = pixels()
    t = untrained(sample=True, precision="fp32")
    noise = KeyedNoise(0, content_ids(x)).normal(2, 8, 8, 8)
    with torch.no_grad():
        want = t.net.eval()(x / 255, noise).reconstruction
    assert (t(x / 255) - want).abs().max() < 1e-5
    assert torch.equal(t(x), t(x)) and not torch.equal(t(x), untrained(seed=1, sample=True)(x))
    free = untrained(seed=None, sample=True)
    assert not torch.equal(free(x), free(x))


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_found_wherever_a_sample_keeps_them(fitted):
    x, labels = pixels(3), torch.tensor([2, 0, 1])
    want = fitted(x, labels)[0]
    assert not torch.equal(want, fitted(x)) and not torch.equal(want, fitted(x, labels.flip(0))[0])
    assert torch.equal(fitted((x, labels))[0], want)
    kept, out = fitted(labels, x)
    assert kept is labels and torch.equal(out, want)
    assert torch.equal(fitted({"image": x, "label": labels, "id": 7})["image"], want)
    assert torch.equal(fitted({"x": x, "target": labels.numpy()})["x"], want)
    for i in range(3):
        image, label = fitted((x[i], int(labels[i])))
        assert torch.equal(image, want[i]) and label == labels[i]
    pil = F.to_pil_image(x[1])
    assert np.array_equal(np.asarray(fitted(pil, 0)[0]), want[1].permute(1, 2, 0).numpy())
    batch = fitted({"image": [F.to_pil_image(image) for image in x], "label": labels.tolist()})
    assert all(
        np.array_equal(np.asarray(a), b.permute(1, 2, 0).numpy()) for a, b in zip(batch["image"], want, strict=True)
    )
    nested = fitted(x.view(3, 1, 3, 16, 16), labels.view(3, 1))[0]
    assert torch.equal(nested.flatten(0, 1), want)
    assert torch.equal(fitted([x[0]])[0], fitted(x[0])), "images alone: reconstruction alone"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), "one label for each of 3 images, got 2"),
        (torch.eye(3)[[0, 1, 2]], "integer label"),
        (torch.tensor([0, 1, 3]), "from 0 to 2, got 3"),
        (torch.tensor([0, -1, 2]), "from 0 to 2, got -1"),
        (torch.tensor([True, False, True]), "integer label"),
        ("cat", "integer label"),
        (None, "integer label"),
    ],
)
def test_labels_that_do_not_fit_are_refused(fitted, labels, message):
    with pytest.raises(LabelError, match=message):
        fitted(pixels(3), labels)


def test_a_labelled_image_does_not_depend_on_its_batch_or_chunk(fitted):
    x, labels = pixels(9), LABELS[:9]
    whole = fitted(x, labels)[0]
    for rows in ([4], [8, 2, 5]):
        apart = (fitted(x[rows], labels[rows])[0].int() - whole[rows].int()).abs()
        assert apart.max() <= 1
    fitted.chunk_size = 2
    try:
        assert (fitted(x, labels)[0].int() - whole.int()).abs().max() <= 1
    finally:
        fitted.chunk_size = "auto"


def test_grey_images_with_labels(fitted):
    x, labels = pixels(3)[:, :1], LABELS[:3]
    out, _ = fitted(x, labels)
    assert out.shape == x.shape
    colour = fitted(x.expand(-1, 3, -1, -1), labels)[0].float().mean(1, keepdim=True)
    assert (out.float() - colour).abs().max() <= 1
    assert fitted.perturbation(x, labels).shape == (3, 3, 16, 16)
    with pytest.raises(NoImageError, match="expected 3 channels"):
        fitted.perturbation(torch.rand(1, 4, 16, 16), 0)


def test_a_perturbation_needs_a_fit():
    with pytest.raises(NotFittedError, match=r"\.fit\(dataset\)"):
        VAEPurify(**SMALL).perturbation(pixels(1), 0)


def test_gradients_reach_the_image_through_both_stages(fitted):
    fitted.differentiable = True
    try:
        x = (pixels(2) / 255).requires_grad_()
        fitted(x, LABELS[:2])[0].sum().backward()
    finally:
        fitted.differentiable = False
    assert x.grad.abs().sum() > 0 and all(p.grad is None and not p.requires_grad for p in fitted.parameters())


# --- the fit ----------------------------------------------------------------------------------------------------------

CHILD = """
import time, torch
from puretransforms.train.rate import FitSchedule
from puretransforms.transforms import vae
from puretransforms.transforms.vae import VAEPurify

def hang(record):
    if record.step == 7:
        print("seven", flush=True)
        time.sleep(600)

torch.set_num_threads(1)
pixels = torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
VAEPurify(weights=None, arch="published", width=4, latent=8, precision="fp32").fit(
    (pixels, torch.arange(24) % 3), schedule=FitSchedule(epochs=5, batch_size=8, lr=1e-3), checkpoint={!r},
    save_every=2, on_record=hang,
)
"""


def same(a: VAEPurify, b: VAEPurify) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_killed_and_resumed_gives_the_same_weights_bit_for_bit(tmp_path):
    """SIGKILL in a process of its own at update 7, saved at 6; the fit goes on here, beside one without a break."""
    checkpoint = tmp_path / "fit.safetensors"
    child = subprocess.Popen([sys.executable, "-c", CHILD.format(str(checkpoint))], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "seven\n"
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    schedule = FitSchedule(epochs=5, batch_size=8, lr=1e-3)
    options = {"schedule": schedule, "width": 4, "latent": 8, "precision": "fp32"}
    steps, whole = [], []
    resumed = fit((pixels(24), LABELS), **options, checkpoint=checkpoint, on_record=steps.append)
    straight = fit((pixels(24), LABELS), **options, on_record=whole.append)
    assert same(resumed, straight) and steps[0].step == 7
    assert [r.loss for r in steps] == [r.loss for r in whole][6:]


@pytest.mark.parametrize("stop", [(0, 4), (0, 6), (1, 3)])
def test_an_interrupted_fit_goes_on_from_its_checkpoint(tmp_path, fitted, stop):
    options = {"schedule": TINY, "width": 4, "latent": 8, "precision": "fp32", "save_every": 2}
    checkpoint = tmp_path / "fit.safetensors"

    def interrupt(record) -> None:
        if (record.stage, record.step) == stop:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit((pixels(24), LABELS), **options, checkpoint=checkpoint, on_record=interrupt)
    steps = []
    again = fit((pixels(24), LABELS), **options, checkpoint=checkpoint, on_record=steps.append)
    assert same(again, fitted) and len(steps) < 12
    assert not list(tmp_path.glob("*.tmp"))


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_refused(tmp_path):
    options = {"schedule": TINY, "width": 4, "latent": 8, "precision": "fp32", "checkpoint": tmp_path / "fit"}
    fit((pixels(24), LABELS), **options)
    for data, changes in (
        ((255 - pixels(24), LABELS), {}),
        ((pixels(24), 2 - LABELS), {}),
        ((pixels(24), LABELS), {"seed": 1}),
    ):
        with pytest.raises(ManifestMismatchError, match="the same data, labels, schedule"):
            fit(data, **options, **changes)
    (tmp_path / "fit").write_bytes((tmp_path / "fit").read_bytes()[:-9])
    with pytest.raises(WeightsCorruptedError, match="remove it to start anew"):
        fit((pixels(24), LABELS), **options)


@pytest.mark.parametrize(
    "wrap", [lambda x, y: (x, y, 7), lambda x, y: [x, 5.0, "name"], lambda x, y: {"image": x, "fine_label": y}]
)
def test_labels_in_an_unknown_place_are_not_passed_over(fitted, wrap):
    with pytest.raises(LabelError, match="or labels under one of"):
        fitted(wrap(pixels(4) / 255, LABELS[:4]))
    assert fitted({"image": pixels(4)})["image"].shape == (4, 3, 16, 16)


def test_a_fit_takes_a_data_set_of_samples(fitted):
    samples = [(F.to_pil_image(image), int(label)) for image, label in zip(pixels(24), LABELS, strict=True)]
    by_sample = fit(samples, schedule=TINY, width=4, latent=8, precision="fp32")
    assert same(by_sample, fitted)
    as_floats = fit((pixels(24) / 255, LABELS), schedule=TINY, width=4, latent=8, precision="fp32")
    assert same(as_floats, fitted)


def test_the_initial_table_is_that_of_the_schedule():
    still = {"epochs": 0, "batch_size": 8}
    zero, one = (
        fit((pixels(24), LABELS), schedule=FitSchedule(**still, table_std=std), width=4, latent=8) for std in (0.0, 1.0)
    )
    assert not zero.first.table.weight.any() and one.first.table.weight.std().item() == pytest.approx(1, rel=0.1)
    assert not torch.equal(one.first.table.weight, one.net.table.weight), "the second stage starts afresh"


def test_data_that_cannot_be_fitted_is_refused():
    with pytest.raises(NoImageError, match="one size"):
        fit([(pixels(1, 8)[0], 0), (pixels(1, 16)[0], 1)], schedule=TINY)
    with pytest.raises(NoImageError, match="one size"):
        fit([], schedule=TINY)
    with pytest.raises(LabelError, match="integer"):
        fit((pixels(24), torch.rand(24)), schedule=TINY)
    with pytest.raises(LabelError, match="one integer label for each of 24 images, got 23"):
        fit((pixels(24), LABELS[:23]), schedule=TINY)
    with pytest.raises(ValueError, match="schedule to be one of published, short"):
        fit((pixels(24), LABELS), schedule="long")


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_fitted_purifier_survives_saving_and_loading(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "weights" not in config and (config["num_classes"], config["size"], config["width"]) == (3, 16, 4)
    again = VAEPurify.from_pretrained(tmp_path)
    x, labels = pixels(5), LABELS[:5]
    assert torch.equal(again(x, labels)[0], fitted(x, labels)[0]) and torch.equal(again(x), fitted(x))
    by_folder = VAEPurify(tmp_path)
    assert torch.equal(by_folder(x, labels)[0], fitted(x, labels)[0])


def test_missing_weights_never_become_random_ones(tmp_path):
    with pytest.raises(WeightsUnavailableError):
        VAEPurify(tmp_path / "nowhere")
    VAEPurify(**SMALL).save_pretrained(tmp_path)
    with pytest.raises(WeightsMismatchError):
        VAEPurify(tmp_path, width=8)


def test_changed_parameters_are_noticed():
    t, x = untrained(), pixels()
    before = t(x)
    with torch.no_grad():
        t.net.image_decoder.conv3.bias.add_(0.5)
    assert (t(x).float() - before.float()).mean() > 5


def test_bfloat16_stays_close_to_float32():
    x = pixels(8, 32)
    half, full = (untrained(precision=p)(x / 255) for p in ("bf16", "fp32"))
    assert 0 < (half - full).abs().max() < 0.02


def test_odd_sizes_and_pil():
    t = untrained()
    assert t(pixels(2, 17)).shape == (2, 3, 17, 17)
    out = t(PIL.Image.new("L", (19, 11), 90))
    assert out.mode == "L" and out.size == (19, 11)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"arch": "huge"}, "arch"), ({"precision": "fp8"}, "precision"), ({"size": 0}, "size"), ({"width": 5}, "width")],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VAEPurify(**SMALL | options)


@pytest.mark.parametrize(
    ("schedule", "precision", "want"),
    [
        ("published", "auto", torch.float32),
        ("published", "bf16", torch.bfloat16),
        ("short", "auto", torch.bfloat16),
        ("short", "fp32", torch.float32),
    ],
)
def test_the_published_schedule_is_fitted_in_float32_unless_asked_otherwise(monkeypatch, schedule, precision, want):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    got = []
    monkeypatch.setattr(vae, "fit_dvae", lambda *args, precision, **options: got.append(precision) or [])
    fit((pixels(24), LABELS), schedule=schedule, width=4, latent=8, precision=precision)
    assert got == [want]
