import inspect
import re

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from puretransforms.errors import HardwareError, LabelError, NoImageError, RegistryError
from puretransforms.poisons.availability.convolution import CUDA
from puretransforms.poisons.availability.noise import ClasswiseNoise
from puretransforms.poisons.availability.rem import REM
from puretransforms.poisons.availability.tap import TAP
from puretransforms.poisons.backdoor.badnets import BadNets
from puretransforms.poisons.backdoor.blend import Blend
from puretransforms.poisons.backdoor.bpp import BPP
from puretransforms.poisons.backdoor.narcissus import Narcissus
from puretransforms.poisons.backdoor.sig import SIG
from puretransforms.poisons.backdoor.wanet import WaNet
from puretransforms.poisons.base import Poison
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.poisons.progress import CraftRecord
from puretransforms.poisons.stored import StoredPoison

CLASSES = ["ant", "bee", "cow"]


class Flip(Poison):
    """A backdoor in small: only class 0 or 1, every poisoned sample becomes class 2, one decoy for each."""

    cover_ratio = 1.0

    @property
    def covers(self):
        return ClasswiseNoise(num_classes=3)

    def perturb(self, x, labels, noise):
        return x.flip(-1)

    def eligible(self, labels, noise=None):
        return labels < 2

    def relabel(self, labels):
        return torch.full_like(labels, 2)


class MeanPoison(Poison):
    needs_fit = True
    total: torch.Tensor | None = None

    def fit(self, dataset, **options):
        self.total = (self._gather(dataset)[0] / 255).sum(0)
        return self

    @property
    def fitted(self):
        return self.total is not None

    def perturb(self, x, labels, noise):
        return x * 0 + self.total / self.total.max()


class Pictures(torch.utils.data.Dataset):
    """PIL images of changing sizes."""

    def __init__(self, n=12, size=(9, 7), classes=None):
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(n)]
        self.targets = [i % 3 for i in range(n)]
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return PIL.Image.fromarray(self.images[i]), self.targets[i]


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_masked_samples_are_the_poison_of_their_index_and_the_others_are_untouched():
    inner, poison = Pictures(), CUDA(num_classes=3)
    data = PoisonedDataset(inner, poison, rate=0.5, seed=1)
    assert len(data) == 12 and data.mask.sum() == 6 and not data.cover_mask.any()
    for i in range(12):
        image, label = data[i]
        expected = poison(*inner[i], i)[0] if data.mask[i] else inner[i][0]
        assert isinstance(image, PIL.Image.Image) and same(image, expected) and label == i % 3
    assert data.targets.equal(data.original_targets)
    assert same(data[-1][0], data[11][0])
    with pytest.raises(IndexError):
        data[12]


def test_a_poison_goes_by_its_name():
    data = PoisonedDataset(Pictures(classes=CLASSES), "cuda:kernel_size=5", seed=3)
    same_by_class = PoisonedDataset(Pictures(), CUDA(num_classes=3, seed=3, kernel_size=5), seed=3)
    assert data.poison.arguments == same_by_class.poison.arguments and same(data[4][0], same_by_class[4][0])
    assert PoisonedDataset(Pictures(), "cuda:num_classes=7").poison.num_classes == 7
    with pytest.raises(RegistryError, match=r"expected a poison among .*got 'cudda'\. Did you mean 'cuda'"):
        PoisonedDataset(Pictures(), "cudda")


@pytest.mark.parametrize(("given", "message"), [(CUDA, r"got CUDA: write CUDA\(\)"), (3, "got int: .*list_poisons")])
def test_what_is_no_poison_is_refused(given, message):
    make = inspect.unwrap(PoisonedDataset.__init__)  # as in production, without the check of types of the tests
    with pytest.raises(TypeError, match=f"expected a poison such as CUDA.*, or its name, {message}"):
        make(object.__new__(PoisonedDataset), Pictures(), given)


def test_the_mask_follows_the_seed_and_grows_with_the_rate():
    masks = {
        (rate, seed): PoisonedDataset(Pictures(), CUDA(), rate, seed).mask for rate in (0.25, 0.5) for seed in (0, 1)
    }
    assert masks[0.25, 0].equal(PoisonedDataset(Pictures(), CUDA(), 0.25, 0).mask)
    assert not masks[0.25, 0].equal(masks[0.25, 1])
    for seed in (0, 1):
        assert (masks[0.5, seed] | ~masks[0.25, seed]).all()
    assert PoisonedDataset(Pictures(), CUDA()).mask.all()
    assert not PoisonedDataset(Pictures(), CUDA(), 0.0).mask.any()


def test_only_eligible_samples_are_relabelled_and_decoys_keep_their_label():
    data = PoisonedDataset(Pictures(), Flip(num_classes=3), rate=0.25)
    assert data.mask.sum() == 3 and data.cover_mask.sum() == 3 and not (data.mask & data.cover_mask).any()
    assert (data.original_targets[data.mask] < 2).all() and (data.targets[data.mask] == 2).all()
    assert data.targets[~data.mask].equal(data.original_targets[~data.mask])
    decoy = int(data.cover_mask.nonzero()[0])
    image, label = data[decoy]
    assert same(image, ClasswiseNoise(num_classes=3)(*Pictures()[decoy], decoy)[0]) and label == decoy % 3


def test_a_rate_that_the_eligible_samples_do_not_allow_is_refused_with_the_largest_one():
    with pytest.raises(ValueError, match=r"at most 0\.5 for Flip .*8 of 12 samples are eligible"):
        PoisonedDataset(Pictures(), Flip(num_classes=3), rate=0.75)
    PoisonedDataset(Pictures(), Flip(num_classes=3), rate=0.5)
    with pytest.raises(ValueError, match="rate as a number from 0 to 1"):
        PoisonedDataset(Pictures(), CUDA(), rate=10.0)


def test_without_a_rate_it_is_the_poisons_own():
    rates = {cls: PoisonedDataset(Pictures(60), cls()).rate for cls in (CUDA, SIG, BadNets, Blend, BPP, WaNet)}
    assert rates == {CUDA: 1.0, SIG: 0.05, BadNets: 0.1, Blend: 0.1, BPP: 0.1, WaNet: 0.1}
    assert (Narcissus.default_rate, TAP.default_rate, REM.default_rate) == (0.01, 1.0, 1.0)
    assert PoisonedDataset(Pictures(60), SIG()).mask.sum() == 3
    assert PoisonedDataset(Pictures(6), SIG()).mask.sum() == 1  # of a rate above 0, at least one
    assert PoisonedDataset(Pictures(6), SIG(), rate=0.0).mask.sum() == 0


class Whole(Poison):
    """Fitted on everything at once; remembers what it was given."""

    needs_fit, fits = True, ()

    def fit(self, dataset, *, device=None, on_progress=None):
        images, labels = self._gather(dataset, device)
        self.fits = (*self.fits, (images.dtype, images.device, labels.device))
        for done in range(3):
            if on_progress is not None:
                on_progress(CraftRecord("perturbation", done, 2))
        return self

    @property
    def fitted(self):
        return bool(self.fits)

    def eligible(self, labels, noise=None):
        return labels == 0


@pytest.mark.parametrize(("device", "expected"), [(None, "cpu"), ("cpu", "cpu"), ("meta", "meta")])
def test_it_is_fitted_where_it_is_told_or_else_where_the_images_are(device, expected):
    (fit,) = PoisonedDataset(Pictures(), Whole(), rate=0.1, device=device).poison.fits
    assert fit == (torch.uint8, torch.device(expected), torch.device(expected))


def test_images_that_live_elsewhere_are_fitted_there():
    x, y = torch.zeros(9, 3, 8, 8, dtype=torch.uint8, device="meta"), torch.arange(9) % 3
    inner = _Elsewhere(x, y)
    (fit,) = PoisonedDataset(inner, Whole(), rate=0.1).poison.fits
    assert fit == (torch.uint8, torch.device("meta"), torch.device("meta"))


class _Elsewhere(TensorDataset):
    @property
    def targets(self):
        return self.tensors[1]


def test_rem_is_fitted_beside_a_gpu_and_refused_on_a_cpu(monkeypatch):
    given = []
    monkeypatch.setattr(StoredPoison, "fit", lambda self, dataset, **named: given.append(named["device"]) or self)
    PoisonedDataset(Pictures(), REM(), device="meta")
    assert given == ["meta"]
    monkeypatch.undo()
    with pytest.raises(HardwareError, match="device='cuda'"):
        PoisonedDataset(Pictures(), REM())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_to_be_missing():
    with pytest.raises(HardwareError, match="GPU that torch can use for device='cuda:0', got none"):
        PoisonedDataset(Pictures(), Whole(), rate=0.1, device="cuda:0")


def test_a_rate_is_refused_before_the_fit():
    poison = Whole()
    poison.fit = pytest.fail
    with pytest.raises(ValueError, match=r"at most 0\.333333"):
        PoisonedDataset(Pictures(), poison, rate=0.5)


def test_a_bar_is_shown_where_it_is_asked_for(capsys):
    PoisonedDataset(Pictures(), Whole(), rate=0.1)
    assert capsys.readouterr() == ("", "")
    PoisonedDataset(Pictures(), Whole(), rate=0.1, progress=True)
    assert re.search(r"perturbation: 100%.*2/2 \[\d\d:\d\d<\d\d:\d\d, .*step", capsys.readouterr().err)


def test_a_poison_that_needs_the_data_is_fitted_on_a_copy():
    poison = MeanPoison()
    data = PoisonedDataset(Pictures(), poison)
    assert not poison.fitted and data.poison.fitted
    expected = sum(torch.from_numpy(image).permute(2, 0, 1) / 255 for image in Pictures().images)
    torch.testing.assert_close(data.poison.total, expected)
    mixed = Pictures()
    mixed.images[5] = mixed.images[5][:4]
    with pytest.raises(NoImageError, match="one size"):
        PoisonedDataset(mixed, poison)


def test_tensors_stay_tensors_and_the_transform_comes_after_the_poison():
    x, y = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8), torch.arange(9) % 3
    data = PoisonedDataset(TensorDataset(x, y), CUDA(), transform=lambda image: image.float() / 255)
    images, labels = next(iter(DataLoader(data, batch_size=9)))
    assert images.dtype == torch.float32 and labels.equal(y)
    assert (images * 255).round().to(torch.uint8).equal(CUDA()(x, y, torch.arange(9))[0])


def test_labels_come_from_the_table_the_subset_or_the_samples():
    inner = Pictures(classes=CLASSES)
    part = PoisonedDataset(Subset(inner, [4, 2, 0]), CUDA())
    assert part.original_targets.tolist() == [1, 2, 0] and part.classes == CLASSES
    inner.target_transform = lambda y: y
    assert PoisonedDataset(inner, CUDA()).original_targets.tolist() == [i % 3 for i in range(12)]


def test_bad_data_sets_are_refused_with_the_fix():
    class Wrong(Pictures):
        sample = None

        def __getitem__(self, i):
            return self.sample

    wrong = Wrong()
    wrong.target_transform = lambda y: y  # so that the labels are read from the samples
    for sample, message in (
        (PIL.Image.new("RGB", (4, 4)), "got a Image"),
        ((1, 2, 3), "tuple of 3"),
        ((None, 0.5), "one integer label .* got torch.float64"),
        ((None, "cow"), "one integer label"),
        ((None, 10), "from 0 to 9, got 10"),
    ):
        wrong.sample = sample
        with pytest.raises(LabelError, match=message):
            PoisonedDataset(wrong, CUDA())
    shifted = Pictures()
    shifted.targets = [2] * 12
    data = PoisonedDataset(shifted, CUDA())
    shifted.targets = [1] * 12
    with pytest.raises(LabelError, match="label 2 for sample 3"):
        data[3]
