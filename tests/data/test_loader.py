"""The loader gives the values that the transform gives by hand, in any structure of batch, and on a side stream."""

import pickle
from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision import tv_tensors

from puretransforms.data.loader import GPUTransformLoader
from puretransforms.errors import ForkedWorkerError, NoImageError
from puretransforms.functional.devices import check_not_forked_cuda
from puretransforms.transforms.coin import COINInterpolate

IMAGES = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def pairs(**options: Any) -> DataLoader:
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4, **options)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("workers", [0, 2])
def test_values_are_those_of_the_transform_by_hand(device: str, workers: int) -> None:
    transform = COINInterpolate(seed=3)
    loaded = list(GPUTransformLoader(pairs(num_workers=workers, pin_memory=device == "cuda"), transform, device))
    for (images, labels), (x, y) in zip(loaded, pairs(), strict=True):
        assert images.device.type == labels.device.type == device
        assert torch.equal(images.cpu(), transform(x.to(device)).cpu())
        assert torch.equal(labels.cpu(), y)


def test_unseeded_transforms_draw_in_the_order_of_the_batches() -> None:
    transform = COINInterpolate()
    torch.manual_seed(7)
    loaded = list(GPUTransformLoader(pairs(), transform, "cpu"))
    torch.manual_seed(7)
    for (images, _), (by_hand, _) in zip(loaded, (transform(*batch) for batch in pairs()), strict=True):
        assert torch.equal(images, by_hand)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_dicts_nested_batches_and_typed_images(device: str) -> None:
    def collate(rows: list[Any]) -> Any:
        images, labels = default_collate(rows)
        return {"views": [tv_tensors.Image(images)], "target": {"label": labels, "name": [str(int(n)) for n in labels]}}

    transform = COINInterpolate(seed=1)
    (batch, *_rest) = GPUTransformLoader(pairs(collate_fn=collate), transform, device)
    assert type(batch["views"][0]) is tv_tensors.Image and batch["views"][0].device.type == device
    assert torch.equal(batch["views"][0].cpu(), transform(IMAGES[:4].to(device)).cpu())
    assert batch["target"]["label"].tolist() == [0, 1, 2, 3]
    assert batch["target"]["name"] == ["0", "1", "2", "3"]


def test_mappings_that_are_no_dict_become_one() -> None:
    transform = COINInterpolate(seed=1)
    (batch,) = GPUTransformLoader([UserDict(pixels=IMAGES, label=LABELS)], transform, "cpu")
    assert type(batch) is dict and torch.equal(batch["pixels"], transform(IMAGES))


def test_a_batch_without_an_image_raises() -> None:
    with pytest.raises(NoImageError):
        list(GPUTransformLoader([(LABELS, "no image here")], COINInterpolate(), "cpu"))


def test_length_attributes_reiteration_and_pickling() -> None:
    loader = GPUTransformLoader(pairs(), COINInterpolate(seed=0), "cpu")
    assert len(loader) == 3 and len(list(loader)) == 3 and len(list(loader)) == 3
    assert loader.batch_size == 4 and loader.dataset is loader.loader.dataset
    assert len(pickle.loads(pickle.dumps(loader))) == 3
    with pytest.raises(AttributeError):
        _ = loader.no_such_thing


def test_source_batches_are_left_as_they_are() -> None:
    before = IMAGES.clone()
    list(GPUTransformLoader(pairs(), COINInterpolate(seed=0), "cpu"))
    assert torch.equal(IMAGES, before)


class FakeStream:
    """Enough of a CUDA stream to log who waits for what; ``log`` is shared."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.events = name, log, 0

    def wait_stream(self, other: "FakeStream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")

    def record_event(self) -> str:
        self.events += 1
        return f"batch {self.events - 1}"

    def __enter__(self) -> None:
        self.log.append("side on")

    def __exit__(self, *_: object) -> None:
        self.log.append("side off")


def test_each_batch_is_queued_on_the_side_stream_before_the_one_before_it_is_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    side, main = FakeStream("side", log), FakeStream("main", log)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "Stream", lambda: side)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: main)
    loader = GPUTransformLoader(["a", "b", "c"], lambda batch: log.append(f"transform {batch}") or batch.upper())
    for batch in loader:
        log.append(f"train {batch}")
    queue = {n: ["side on", f"transform {b}", "side off"] for n, b in enumerate("abc")}
    expected = ["side waits for main", *queue[0], *queue[1], "main waits for batch 0", "train A"]
    expected += [*queue[2], "main waits for batch 1", "train B", "main waits for batch 2", "train C"]
    assert log == expected


def test_an_empty_cuda_loader_yields_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = FakeStream("any", [])
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    assert list(GPUTransformLoader([], COINInterpolate())) == []


@needs_cuda
def test_a_slow_consumer_never_sees_memory_reused() -> None:
    transform = COINInterpolate(seed=2)
    batches = [torch.rand(64, 3, 64, 64).pin_memory() for _ in range(8)]
    sums = []
    for images in GPUTransformLoader(batches, transform, "cuda"):
        torch.cuda._sleep(5_000_000)
        sums.append(images.double().sum())
        del images
    expected = [transform(batch.cuda()).double().sum() for batch in batches]
    torch.testing.assert_close(torch.stack(sums), torch.stack(expected))


@pytest.mark.parametrize(
    ("device", "in_worker", "forked", "refused"),
    [
        ("cuda", True, True, True),
        ("cuda:1", True, True, True),
        ("cuda", False, True, False),
        ("cuda", True, False, False),
        ("cpu", True, True, False),
    ],
)
def test_cuda_in_a_forked_worker_is_refused_with_the_recipe(
    monkeypatch: pytest.MonkeyPatch, device: str, in_worker: bool, forked: bool, refused: bool
) -> None:
    worker = SimpleNamespace(id=0) if in_worker else None
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: worker)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: forked)
    if refused:
        with pytest.raises(ForkedWorkerError, match=r"GPUTransformLoader\(loader, transform, device\)"):
            check_not_forked_cuda(torch.device(device))
    else:
        check_not_forked_cuda(torch.device(device))
