"""Folders and repos in the layout that PureGen's code publishes load, or one sentence says why they do not.

Its EBMs are a config of ``nf`` and ``patch_size`` and a state dict under its own names; its DDPMs are diffusers models.
"""

import json
import re
from functools import partial

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save, save_file
from torch import nn
from torch.nn.functional import avg_pool2d

from puretransforms.errors import PureTransformsError, WeightsMismatchError, WeightsUnavailableError
from puretransforms.models.energy import PUREGEN_LAYERS
from puretransforms.transforms.base import PureTransform
from puretransforms.transforms.ebm import EBMPurify

NF = 4


class Theirs(nn.Module, PyTorchModelHubMixin):
    """A network under PureGen's names, written by the mixin behind ``nn.Module``, as in its code."""

    def __init__(self, nf: int = NF, patch_size: int = 1) -> None:
        super().__init__()
        self.patch_size = patch_size
        for block, channels in enumerate((3 * patch_size**2, nf, nf, nf), 1):
            layers = {"c1": nn.Conv2d(channels, nf, 3, padding=1), "c2": nn.Conv2d(nf, nf, 3, padding=1)}
            skip = {"c_sc": nn.Conv2d(channels, nf, 1)} if block < 3 else {}
            setattr(self, f"block{block}", nn.ModuleDict(layers | skip))
        self.l5 = nn.Linear(nf, 1, bias=False)

    def forward(self, x):
        def two(block, h):
            return block["c2"](block["c1"](h).relu())

        half = partial(avg_pool2d, kernel_size=2)
        h = half(two(self.block1, x)) + self.block1["c_sc"](half(x))
        h = half(two(self.block2, h.relu())) + half(self.block2["c_sc"](h))
        for block in (self.block3, self.block4):
            h = two(block, h.relu()) + h
        return self.l5(h.relu().mean((2, 3)))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    theirs = {ours: layer for layer, ours in PUREGEN_LAYERS.items()}
    state = {}
    for name, tensor in EBMPurify(weights=None, arch="published", nf=NF).net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        state[f"{theirs[layer]}.{kind}"] = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    return state


@pytest.fixture
def folder(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"nf": NF, "patch_size": 1}))
    return tmp_path


def test_what_the_mixin_writes_for_their_class_loads_with_the_same_energies(tmp_path):
    theirs = Theirs()
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"nf": NF, "patch_size": 1}
    x = torch.randn(3, 3, 16, 12)
    with torch.no_grad():
        assert torch.allclose(EBMPurify.from_pretrained(tmp_path).net(x), theirs(x)[:, 0], rtol=0, atol=1e-5)
    Theirs(patch_size=2).save_pretrained(tmp_path)
    with pytest.raises(WeightsMismatchError, match="expected patch_size=1"):
        EBMPurify.from_pretrained(tmp_path)


def test_the_published_layout_loads_and_is_saved_in_ours(folder, state, tmp_path):
    t = EBMPurify.from_pretrained(folder, seed=0)
    assert (t.arch, t.nf, t.steps, t.step_size, t.temperature) == ("published", NF, 150, 1.25e-2, 1e-4)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(t.net.stem.conv1.weight, state["block1.c1.weight"])
    t.save_pretrained(tmp_path / "ours")
    again = PureTransform.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.energy(x), t.energy(x)) and t.energy(x).std() > 0


def test_the_published_layout_loads_from_a_repo(hub, state):
    config = json.dumps({"nf": NF, "patch_size": 1}).encode()
    commit = hub.repo("them/puregen-ebm", {"config.json": config, "model.safetensors": save(state)})
    t = EBMPurify.from_pretrained("them/puregen-ebm")
    assert t.pretrained == f"them/puregen-ebm@{commit[:12]}"
    assert torch.equal(t.net.head.weight, state["l5.weight"])
    hub.break_("model.safetensors", corrupt=True)
    with pytest.raises(PureTransformsError, match="is damaged"):
        EBMPurify.from_pretrained("them/puregen-ebm", force_download=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"nf": NF, "patch_size": 2}, "expected patch_size=1"),
        ({"nf": NF, "patch_size": 1, "use_norm": True}, "EBMPurify takes no 'use_norm'"),
        ({"n_c": 3, "n_f": 32, "leak": 0.05}, "EBMPurify takes no 'leak', 'n_c', 'n_f'"),  # its light network
        ({"nf": 64, "num_res_blocks": 2, "num_heads": 4}, "takes no 'num_heads', 'num_res_blocks'"),  # a diffusion net
        ({"nf": 8, "patch_size": 1}, "another network; .*: size mismatch for"),
        ({"nf": "4"}, "expected nf of config.json"),
    ],
)
def test_other_configs_are_refused(folder, config, message):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsMismatchError, match=message):
        EBMPurify.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"block5.c1.weight": torch.zeros(NF, NF, 3, 3)}, r'Unexpected key.*"block5\.c1\.weight"'),
        (lambda s: {n: t for n, t in s.items() if not n.startswith("block4")}, r'Missing key.*"net\.residual2'),
        (lambda s: {f"module.{n}": t for n, t in s.items()}, r'Unexpected key.*"module\.block1'),
    ],
)
def test_networks_of_other_sizes_are_refused(folder, state, change, message):
    save_file(change(state), folder / "model.safetensors")
    with pytest.raises(WeightsMismatchError, match=message):
        EBMPurify.from_pretrained(folder)


def test_keys_in_a_refusal_are_sorted(folder, state):
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, folder / "model.safetensors")
    with pytest.raises(WeightsMismatchError) as refused:
        EBMPurify.from_pretrained(folder)
    keys = [re.findall(r'"([^"]+)"', line) for line in str(refused.value).split("key(s)")[1:]]
    assert len(keys) == 2 and all(len(found) > 2 and found == sorted(found) for found in keys)


def test_folders_that_are_something_else_are_refused(folder, state):
    with pytest.raises(WeightsMismatchError, match="names no transform: call from_pretrained of the class"):
        PureTransform.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "sample_size": 32}))
    with pytest.raises(WeightsMismatchError, match="holds a UNet2DModel of diffusers"):
        EBMPurify.from_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsUnavailableError, match=r"diffusion_pytorch_model\.safetensors is not read"):
        EBMPurify.from_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, folder / "ebm.pth")
    with pytest.raises(WeightsUnavailableError, match=r"ebm\.pth is a pickle"):
        EBMPurify.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsUnavailableError, match=r"expected config\.json"):
        EBMPurify.from_pretrained(folder)
