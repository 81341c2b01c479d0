"""Sets are made once, kept within a bound of memory, and read back from a folder."""

from pathlib import Path

import torch

from puretransforms.benchmark.cache import Cache


def make(calls: list[str], name: str, size: int = 100) -> object:
    def run() -> dict[str, torch.Tensor]:
        calls.append(name)
        return {"x": torch.full((size,), float(len(name))), "none": torch.zeros(0, 3)}

    return run


def test_made_once_and_the_oldest_forgotten() -> None:
    calls: list[str] = []
    store = Cache(memory=1000)  # two sets of 400 bytes
    for name in ("a", "b", "a", "c", "a", "b"):
        assert store.get(["key", name], make(calls, name))["x"].shape == (100,)
    assert calls == ["a", "b", "c", "b"]


def test_one_larger_than_the_memory_is_still_given() -> None:
    calls: list[str] = []
    store = Cache(memory=10)
    assert store.get("big", make(calls, "big"))["x"].sum() == 300
    store.get("big", make(calls, "big"))
    assert calls == ["big"]


def test_another_process_reads_the_folder(tmp_path: Path) -> None:
    calls: list[str] = []
    first = Cache(tmp_path / "sets").get([1, "a"], make(calls, "a"))
    second = Cache(tmp_path / "sets").get([1, "a"], make(calls, "b"))
    Cache(tmp_path / "sets").get([2, "a"], make(calls, "c"))
    assert calls == ["a", "c"]
    assert torch.equal(first["x"], second["x"]) and second["none"].shape == (0, 3)
    assert all(path.suffix == ".safetensors" for path in (tmp_path / "sets").iterdir())
