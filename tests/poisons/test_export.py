import inspect
import json

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from puretransforms.errors import CorruptImageError, LabelError, ManifestMismatchError, SourceError
from puretransforms.poisons.availability.convolution import CUDA
from puretransforms.poisons.availability.noise import ClasswiseNoise
from puretransforms.poisons.base import Poison
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.poisons.export import export, load_poison_record

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


@pytest.fixture
def folder(tmp_path):
    """An ImageFolder whose file names repeat in every class."""
    for sample, (image, label) in enumerate(Pictures()):
        path = tmp_path / "source" / CLASSES[label] / f"{sample // 3:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return ImageFolder(tmp_path / "source")


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_export_is_the_same_data_set_as_an_image_folder(folder, tmp_path):
    data = PoisonedDataset(folder, CUDA(num_classes=3), rate=0.5)
    out = export(data, tmp_path / "out", workers=2)
    record = load_poison_record(out, clean=folder)
    again = ImageFolder(out)
    assert again.classes == CLASSES == record.classes and len(again) == 12
    places = {str(tmp_path / "out" / name): i for i, name in enumerate(record.files)}
    for path, label in again.samples:
        i = places[path]
        assert same(again.loader(path), data[i][0]) and label == data[i][1]
    assert record.mask.equal(data.mask) and record.targets.equal(data.targets)
    assert record.files[0] == "ant/000.png"
    assert (record.poison, record.arguments) == ("CUDA", data.poison.arguments)
    assert (record.rate, record.seed, record.epsilon, record.quantize) == (0.5, 0, None, "trunc")
    assert record.versions["torch"] and 5 < record.measured["psnr_db"] < 30 and record.measured["poisoned"] == 6
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left


def test_a_dataset_that_is_not_poisoned_is_refused(folder, tmp_path):
    make = inspect.unwrap(export)  # as in production, without the check of types of the tests
    with pytest.raises(TypeError, match=r"a PoisonedDataset to export, got ImageFolder: write export\(Poisoned"):
        make(folder, tmp_path / "out")


def test_a_damaged_file_is_named(folder, tmp_path):
    path = tmp_path / "source" / "bee" / "001.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CorruptImageError, match=r"source/bee/001\.png, got a damaged file .*: remove it, or run"):
        export(PoisonedDataset(folder, CUDA(num_classes=3)), tmp_path / "out")


def test_relabelled_files_move_to_their_new_class_without_overwriting(folder, tmp_path):
    data = PoisonedDataset(folder, Flip(num_classes=3), rate=0.25)
    out = export(data, tmp_path / "out")
    record = load_poison_record(out, clean=folder)
    assert len(list(out.rglob("*.png"))) == 12 == len(set(record.files))
    assert record.targets.equal(data.targets) and record.original_targets.equal(data.original_targets)
    assert record.mask.equal(data.mask) and record.cover_mask.equal(data.cover_mask)
    for i, name in enumerate(record.files):
        source = "/".join(folder.samples[i][0].split("/")[-2:])
        assert name.startswith("cow/") if data.mask[i] else name == source
        with PIL.Image.open(out / name) as image:
            assert same(image, data[i][0])


@pytest.mark.parametrize("classes", [None, ["zebra", "ant", "T-shirt/top"]])
def test_folders_sort_in_label_order_whatever_the_names(classes, tmp_path):
    data = PoisonedDataset(Pictures(classes=classes), ClasswiseNoise(num_classes=3))
    again = ImageFolder(export(data, tmp_path / "out"))
    assert again.targets == sorted(data.targets.tolist())
    assert again.classes == (["0-zebra", "1-ant", "2-T-shirt_top"] if classes else ["0", "1", "2"])


def test_images_of_many_sizes_and_kinds_are_exported(tmp_path):
    images = [
        PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8), "RGBA"),
        PIL.Image.new("L", (4, 8), 77),
        torch.randint(0, 256, (3, 6, 6), dtype=torch.uint8),
        torch.rand(1, 6, 6),
    ]
    inner = [(image, i % 2) for i, image in enumerate(images)]
    for rate in (0.0, 1.0):
        data = PoisonedDataset(inner, ClasswiseNoise(num_classes=2), rate)
        out = export(data, tmp_path / f"out{rate}")
        record = load_poison_record(out, clean=inner)
        sizes = []
        for name in record.files:
            with PIL.Image.open(out / name) as image:
                sizes.append((image.mode, image.size))
        assert sizes == [("RGBA", (5, 6)), ("L", (4, 8)), ("RGB", (6, 6)), ("L", (6, 6))]


def test_export_refuses_a_full_folder_and_the_source_itself(folder, tmp_path):
    data = PoisonedDataset(folder, CUDA(num_classes=3))
    with pytest.raises(SourceError, match="outside the source"):
        export(data, tmp_path / "source" / "poisoned")
    export(data, tmp_path / "out")
    with pytest.raises(ManifestMismatchError, match="new or empty"):
        export(data, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    export(data, tmp_path / "empty")


def test_a_failed_export_leaves_no_folder_that_looks_finished(tmp_path):
    inner = Pictures()
    data = PoisonedDataset(inner, CUDA(num_classes=3))
    inner.targets[7] = 0
    with pytest.raises(LabelError):
        export(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    inner.targets[7] = 1
    assert len(list(export(data, tmp_path / "out").rglob("*.png"))) == 12


def test_the_record_is_checked_against_the_files(folder, tmp_path):
    out = export(PoisonedDataset(folder, ClasswiseNoise(num_classes=3), rate=0.5), tmp_path / "out")
    record = load_poison_record(out, clean=folder)
    stored = json.loads((out / "poison.json").read_text())

    (out / "poison.json").write_text(json.dumps({**stored, "epsilon": 7 / 255}))
    with pytest.raises(ManifestMismatchError, match=r"outside the stored budget \(linf 0\.027"):
        load_poison_record(out, clean=folder)
    (out / "poison.json").write_text(json.dumps({**stored, "format": 99}))
    with pytest.raises(ManifestMismatchError, match="format 1, got 99"):
        load_poison_record(out)
    (out / "poison.json").write_text("{")
    with pytest.raises(ManifestMismatchError, match="expected a record"):
        load_poison_record(out)
    (out / "poison.json").write_text(json.dumps(stored))

    with pytest.raises(ManifestMismatchError, match="dataset of 6"):
        load_poison_record(out, clean=Subset(folder, range(6)))
    clean = out / record.files[int((~record.mask).nonzero()[0])]
    PIL.Image.new("RGB", (7, 9)).save(clean)
    with pytest.raises(ManifestMismatchError, match="recorded as clean"):
        load_poison_record(out, clean=folder)
    clean.unlink()
    with pytest.raises(ManifestMismatchError, match="1 are missing"):
        load_poison_record(out)
    with pytest.raises(ManifestMismatchError, match="FileNotFoundError"):
        load_poison_record(tmp_path)
