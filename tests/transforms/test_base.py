"""The contract of the base: labels, fit, draws, probability, and arguments that no class takes."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from puretransforms import (
    COINInterpolate,
    EBMPurify,
    Grayscale,
    JPEGCompress,
    OrthogonalProjection,
    PurifierChain,
    UNetPurify,
    VAEPurify,
)
from puretransforms.errors import ForkedWorkerError, HardwareError, LabelError, NotFittedError
from puretransforms.functional.random import KeyedNoise
from puretransforms.train.rate import FitSchedule
from puretransforms.transforms.base import PureTransform


class AddsTheLabel(PureTransform):
    """Adds a hundredth of the label, and a thousandth of noise."""

    reads_labels = True
    num_classes = 5

    def purify(self, x, noise, labels=None):
        y = x if labels is None else x + labels[:, None, None, None] / 100
        return (y + noise.uniform(0, *x.shape[1:]) / 1000).clamp(0, 1)


def batch(n: int = 4) -> torch.Tensor:
    return torch.randint(60, 180, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_labels_reach_purify_wherever_they_stand():
    t, x, labels = AddsTheLabel(seed=0), batch() / 255, torch.tensor([0, 1, 2, 4])
    want = t.purify(x, KeyedNoise(0, torch.arange(4)), labels)
    for out in (t(x, labels)[0], t((labels, x))[1], t({"image": x, "label": labels})["image"]):
        assert (out - want).abs().max() < 2e-3
    alone = [t(image, int(label))[0] for image, label in zip(x, labels, strict=True)]
    assert torch.equal(torch.stack(alone), t(x, labels)[0])
    pictures = [F.to_pil_image(image) for image in batch()]
    assert (F.pil_to_tensor(t(pictures, labels.tolist())[0][3]).float() - batch()[3].float()).mean() > 8


def test_labels_are_split_among_images_of_several_sizes():
    t = AddsTheLabel(seed=0, images="all")
    small, large = batch(2) / 255, torch.full((2, 3, 12, 12), 0.5)
    (a, b), _ = t(((small, large), torch.tensor([0, 1, 3, 4])))
    assert (a - small).mean((1, 2, 3)).tolist() == pytest.approx([0, 0.01], abs=2e-3)
    assert (b - large).mean((1, 2, 3)).tolist() == pytest.approx([0.03, 0.04], abs=2e-3)


def test_labels_that_do_not_fit_are_refused():
    t = AddsTheLabel()
    with pytest.raises(LabelError, match="one label for each of 4 images, got 3"):
        t(batch(), torch.arange(3))
    with pytest.raises(LabelError, match="labels from 0 to 4, got 7"):
        t(batch(), torch.tensor([0, 1, 7, 2]))
    with pytest.raises(LabelError, match="integer label"):
        t(batch(), torch.rand(4))


def test_a_list_of_pictures_with_labels_gets_a_draw_each():
    """All of them once shared the first draw."""
    vae = VAEPurify(weights=None, width=4, latent=8, size=8, num_classes=2, sample=True)
    vae._trained = True  # or it refuses
    pictures = [F.to_pil_image(batch(1)[0])] * 3
    out, _ = vae(pictures, [1, 1, 1])
    assert len({picture.tobytes() for picture in out}) == 3
    torch.manual_seed(0)
    assert vae(pictures, [1, 1, 1])[0][0].tobytes() != out[0].tobytes()


def test_a_deterministic_transform_leaves_the_global_generator_alone():
    x, vae = batch(), VAEPurify(weights=None, width=4, latent=8)
    vae._trained = True  # or it refuses
    state = torch.get_rng_state()
    for t in (JPEGCompress(), PurifierChain(["jpeg", "median"]), vae):
        t(x)
        assert torch.equal(torch.get_rng_state(), state), type(t).__name__
    for t in (COINInterpolate(), JPEGCompress(p=0.5)):
        t(x)
        assert not torch.equal(torch.get_rng_state(), state), type(t).__name__


def test_each_image_is_purified_with_probability_p():
    x = torch.randint(0, 256, (400, 3, 8, 8), dtype=torch.uint8)
    whole, some = JPEGCompress()(x), JPEGCompress(p=0.25, seed=3)(x)
    purified = (some == whole).flatten(1).all(1)
    assert ((some == x).flatten(1).all(1) | purified).all() and 60 < purified.sum() < 140
    assert torch.equal(JPEGCompress(p=0.25, seed=3)(x.flip(0)).flip(0), some), "a draw belongs to its image"
    assert torch.equal(JPEGCompress(p=0.0)(x), x)
    with pytest.raises(ValueError, match=r"expected p as a number from 0 to 1, got 1\.5"):
        JPEGCompress(p=1.5)


def test_an_unknown_argument_names_the_class_and_the_nearest():
    with pytest.raises(TypeError, match=r"EBMPurify takes no argument 'stesp': did you mean steps\?"):
        EBMPurify(stesp=3)
    with pytest.raises(TypeError, match="JPEGCompress takes no argument 'zzz': it takes quality"):
        JPEGCompress(zzz=3)


def test_the_energy_is_refused_in_a_forked_worker(monkeypatch):
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(ForkedWorkerError, match="GPUTransformLoader"):
        EBMPurify(weights=None, nf=8, device="cuda").energy(batch())


def test_fit_and_fitted_are_the_same_everywhere():
    images, labels = batch(16), torch.arange(16) % 2
    tiny = FitSchedule(epochs=1, batch_size=8)
    for t, options in (
        (VAEPurify(weights=None, width=4, latent=8), {"schedule": tiny}),
        (OrthogonalProjection(epochs=2), {}),
        (EBMPurify(weights=None, nf=8, steps=2), {"updates": 2, "batch_size": 4}),
        (PurifierChain([OrthogonalProjection(epochs=1)]), {}),
    ):
        seen = []
        assert not t.fitted
        if not isinstance(t, EBMPurify):  # documented to run untrained, for tests
            with pytest.raises(NotFittedError, match=r"to be fitted.*call fit\(dataset\), or use clean\(\)"):
                t(images, labels)
        assert t.fit((images, labels), **options, seed=1, on_record=seen.append) is t
        assert t.fitted and seen and all(record.step <= record.updates for record in seen)
        assert t(images, labels)[0].shape == images.shape
    with pytest.raises(TypeError, match="JPEGCompress needs no fit"):
        JPEGCompress().fit((images, labels))
    assert JPEGCompress().fitted
    with pytest.raises(NotFittedError, match="OrthogonalProjection to be fitted"):
        PurifierChain([OrthogonalProjection()])(images)
    assert torch.equal(UNetPurify(weights=None)(images), images), "documented to leave images as they are"


def test_a_purifier_of_ones_own_that_learns_is_refused_until_it_has():
    class Learner(AddsTheLabel):
        fitted = False

    with pytest.raises(NotFittedError, match="expected Learner to be fitted"):
        Learner()(batch())


def test_a_purify_that_cannot_be_called_is_refused_where_its_class_is_defined():
    with pytest.raises(
        TypeError, match=r"expected purify\(self, x, noise, labels=None\) in Broken, got purify\(self, x\)"
    ):

        class Broken(PureTransform):
            def purify(self, x):
                return x

    class Positional(PureTransform):
        def purify(self, *all_of_them):
            return all_of_them[0]

    assert torch.equal(Positional()(batch()), batch())


def test_a_chain_wants_its_purifiers_in_one_list():
    for given in (("coin",), ("coin", "jpeg")):
        names = ", ".join(map(repr, given))
        with pytest.raises(TypeError, match=rf"in one list, got {names}: write PurifierChain\(\[{names}\]\)"):
            PurifierChain(*given)
    with pytest.raises(TypeError, match="in one list, got 'coin'"):
        PurifierChain(steps="coin")
    with pytest.raises(TypeError, match="in one list, got Grayscale"):
        PurifierChain(Grayscale(), JPEGCompress())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_is_checked_by_name_at_once_and_for_its_presence_at_a_call():
    with pytest.raises(HardwareError, match="a device such as cpu, cuda or cuda:1, got 'cdua'"):
        COINInterpolate(device="cdua")
    with pytest.raises(HardwareError, match="torch can use on this machine, got 'cuda': leave it out"):
        COINInterpolate(device="cuda")(batch())


def test_an_energy_fit_goes_on_from_its_checkpoint(tmp_path):
    images = batch(16)
    options = {"updates": 6, "batch_size": 4, "save_every": 2}

    def stop(record):
        if record.step == 5:
            raise InterruptedError

    make = {"weights": None, "nf": 8, "steps": 2}
    with pytest.raises(InterruptedError):
        EBMPurify(**make).fit((images, torch.zeros(16).long()), **options, checkpoint=tmp_path / "f", on_record=stop)
    steps = []
    again = EBMPurify(**make).fit(
        (images, torch.zeros(16).long()), **options, checkpoint=tmp_path / "f", on_record=steps.append
    )
    whole = EBMPurify(**make).fit((images, torch.zeros(16).long()), **options)
    assert steps[0].step == 5
    assert all(torch.equal(a, b) for a, b in zip(again.net.parameters(), whole.net.parameters(), strict=True))


def test_a_chain_draws_anew_in_each_step_and_is_saved_whole(tmp_path):
    x = batch()
    twice = PurifierChain([COINInterpolate(alpha=1.5), "coin:alpha=1.5"], seed=1)
    once = COINInterpolate(alpha=1.5, seed=1)
    noise = KeyedNoise(1, torch.arange(4))
    first = once.purify(x / 255, noise)
    assert not torch.equal(twice.purify(x / 255, noise), once.purify(first, noise))
    twice.save_pretrained(tmp_path)
    assert torch.equal(PurifierChain.from_pretrained(tmp_path)(x), twice(x))
