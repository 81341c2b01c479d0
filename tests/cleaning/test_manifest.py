"""Rows hold any file name; the configuration holds what decides the bytes."""

import os

import pytest
import torch

from puretransforms.cleaning.manifest import RUN, STATE, Layout, claim, describe, new_row, read_rows, to_line
from puretransforms.cleaning.purifier import weights_sha256
from puretransforms.data.sources.folder import Entry, Listing
from puretransforms.errors import ManifestMismatchError

LISTING = Listing("/somewhere", [Entry("a/1.png", "image", 10), Entry("b.txt", "other", 5)], ["a"])


@pytest.mark.parametrize(
    "raw", [b"plain.png", b"new\nline.png", b"\xff\xfe.png", "ü日本.png".encode(), b'"quoted".png']
)
def test_any_name_comes_back_as_its_bytes(tmp_path, raw):
    (tmp_path / "rows").write_bytes(to_line(new_row(os.fsdecode(raw), "a", 3)) * 2)
    with (tmp_path / "rows").open("rb") as lines:
        rows = list(read_rows(lines))
    assert [os.fsencode(row["path"]) for row in rows] == [raw, raw]
    assert rows[0]["unit"] == 3
    assert (tmp_path / "rows").read_bytes().isascii()


def test_the_configuration_counts_the_source():
    source = describe(LISTING, torch.nn.Identity(), 0, 10)["source"]
    assert (source["files"], source["images"], source["bytes"]) == (2, 1, 15)
    renamed = Listing("/elsewhere", [Entry("a/2.png", "image", 10), LISTING.entries[1]], ["a"])
    assert describe(renamed, torch.nn.Identity(), 0, 10)["source"]["sha256"] != source["sha256"]


def test_functions_are_described_without_their_addresses():
    run = describe(LISTING, lambda x: x, 0, 10)["purifier"]
    assert "<lambda>" in run["repr"]
    assert " at 0x" not in run["repr"]
    assert run["weights_sha256"] is None


def test_weights_are_told_apart_by_value_name_dtype_and_shape():
    def module(name, tensor):
        made = torch.nn.Module()
        made.register_buffer(name, tensor)
        return made

    tensors = [torch.zeros(4), torch.ones(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.tensor(0.0)]
    modules = [module("w", tensor) for tensor in tensors] + [module("v", torch.zeros(4))]
    modules.append(module("w", torch.zeros(8, dtype=torch.bfloat16)))
    assert len({weights_sha256(made) for made in modules}) == len(modules)
    assert weights_sha256(module("w", torch.zeros(4, 2).T[0])) == weights_sha256(modules[0])
    assert weights_sha256(torch.nn.Identity()) is None


def test_a_claim_holds_and_other_configurations_are_refused(tmp_path):
    layout = Layout(tmp_path / "out")
    run = describe(LISTING, torch.nn.Identity(), 0, 10)
    claim(layout, run)
    before = layout.store.read(RUN)
    claim(layout, run)
    other = run | {"seed": 1, "versions": run["versions"] | {"torch": "0.1"}}
    with pytest.raises(ManifestMismatchError, match=r"seed, versions\.torch differ \(seed was 0, is 1\)"):
        claim(layout, other)
    assert layout.store.read(RUN) == before


def test_two_ranks_may_claim_at_once(tmp_path):
    layout = Layout(tmp_path / "out")
    run = describe(LISTING, torch.nn.Identity(), 0, 10)
    layout.store.make(f"{STATE}/units")  # the other rank is between its first folder and run.json
    claim(layout, run)
    assert layout.store.exists(RUN)
