"""Saving and loading: class, arguments, dtype and keys come back, or an error says which of them does not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from puretransforms.errors import WeightsCorruptedError, WeightsMismatchError, WeightsUnavailableError
from puretransforms.transforms.base import PureTransform
from puretransforms.transforms.baselines import JPEGCompress
from puretransforms.transforms.coin import COINInterpolate
from puretransforms.transforms.ebm import EBMPurify
from puretransforms.transforms.unet import UNetPurify


class Shift(PureTransform):
    """A learned purifier with arguments of every kind."""

    def __init__(
        self,
        weights: str | None = None,
        *,
        shape: tuple[int, ...] = (3, 1, 1),
        scale: float = 1.0,
        names: list | None = None,
        **base,
    ) -> None:
        if weights is not None:
            self._become(weights)
            return
        super().__init__(**base)
        self.shape, self.scale, self.names = shape, scale, names
        self.shift = nn.Parameter(torch.zeros(shape))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def purify(self, x, noise, labels=None):
        return (x + self.shift.to(x.dtype) * self.scale).clamp(0, 1)


@pytest.fixture
def saved(tmp_path):
    t = Shift(shape=(3, 2, 2), scale=2, names=["a"], seed=5)
    t.shift.data.uniform_(generator=torch.Generator().manual_seed(0))
    t.calls += 7
    t.save_pretrained(tmp_path)
    return t


def edit(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))


def test_arguments_come_back_in_their_types(saved, tmp_path):
    again = Shift.from_pretrained(tmp_path)
    assert (again.shape, again.scale, again.names, again.seed) == ((3, 2, 2), 2.0, ["a"], 5)
    assert type(again.shape) is tuple and type(again.scale) is float and type(again.names) is list
    assert torch.equal(again.shift, saved.shift) and again.calls == 7
    assert not again.training and again.shift.requires_grad
    assert Shift.from_pretrained(tmp_path, scale=0.5).scale == 0.5


def test_what_is_saved_are_the_arguments_as_they_are_now(saved, tmp_path):
    saved.scale, saved.device = 3.5, "cuda:7"
    saved.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["scale"] == 3.5 and not {"weights", "device"} & config.keys()
    assert {"transform", "format", "sha256", "seed", "images", "chunk_size", "differentiable"} < config.keys()


def test_the_saved_class_is_the_one_that_comes_back(saved, tmp_path):
    assert type(PureTransform.from_pretrained(tmp_path)) is Shift
    COINInterpolate(1.5).save_pretrained(tmp_path / "coin")
    assert repr(PureTransform.from_pretrained(tmp_path / "coin")) == repr(COINInterpolate(1.5))
    with pytest.raises(WeightsMismatchError, match=r"weights of EBMPurify, got those of Shift .*use Shift\.from_pretr"):
        EBMPurify.from_pretrained(tmp_path)
    edit(tmp_path, transform="os.system")
    with pytest.raises(WeightsMismatchError, match=r"those of os\.system from .*import the module that defines"):
        PureTransform.from_pretrained(tmp_path)
    edit(tmp_path, transform="gone")
    assert type(Shift.from_pretrained(tmp_path)) is Shift
    with pytest.raises(WeightsMismatchError, match="names no transform"):
        PureTransform.from_pretrained(tmp_path)


def test_a_subclass_loads_the_weights_of_its_parent(saved, tmp_path):
    class OwnShift(Shift):
        pass

    class OwnUNet(UNetPurify):
        pass

    again = OwnShift.from_pretrained(tmp_path)
    assert type(again) is OwnShift and torch.equal(again.shift, saved.shift)
    for mine in (OwnUNet(), OwnUNet("unet-small", strength=10.0)):
        assert type(mine) is OwnUNet and mine.fitted
    again.save_pretrained(tmp_path / "own")
    assert type(Shift.from_pretrained(tmp_path / "own")) is OwnShift


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_file_is_kept(saved, tmp_path, dtype):
    saved.to(dtype).save_pretrained(tmp_path)
    again = Shift.from_pretrained(tmp_path)
    assert again.shift.dtype == dtype and torch.equal(again.shift, saved.shift) and again.calls.dtype == torch.int64


def test_memory_formats_and_the_random_state_survive(tmp_path):
    EBMPurify(weights=None, nf=4).save_pretrained(tmp_path)
    state = torch.get_rng_state()
    again = EBMPurify.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.net.stem.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        inside = EBMPurify.from_pretrained(tmp_path)
    assert not any(p.is_inference() for p in inside.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sharpness": 1}, r"Shift takes no 'sharpness', which config\.json of .* sets"),
        ({"scale": "2"}, r"expected scale of config\.json of .* to be float, got '2'"),
        ({"seed": True}, "expected seed .* to be int or NoneType, got True"),
        ({"images": "none"}, r"makes no Shift: expected images to be"),
        ({"shape": [3, -1]}, "makes no Shift"),
        ({"shape": [10**9, 10**9]}, r"got those of another network; .*: size mismatch for shift"),
        ({"format": 2}, "upgrade puretransforms"),
        ({"transform": 3}, "name of a class"),
        ({"transform": "gone", "_class_name": "UNet2DModel"}, "a UNet2DModel of diffusers"),
    ],
)
def test_configs_that_do_not_fit_are_refused(saved, tmp_path, changes, message):
    edit(tmp_path, **changes)
    with pytest.raises((WeightsMismatchError, WeightsCorruptedError), match=message):
        Shift.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("shift"), 'Missing key.*"shift"'),
        (lambda state: state.update(other=torch.zeros(1)), 'Unexpected key.*"other"'),
        (lambda state: state.update(shift=torch.zeros(3, 1, 1)), "size mismatch for shift"),
        (lambda state: state.update(shift=torch.zeros(3, 2, 2).int()), "While copying the parameter named .shift"),
        (
            lambda state: state.update(calls=torch.zeros(())),
            r"expected 'calls' of .* to be integer, got torch\.float32",
        ),
    ],
)
def test_states_that_do_not_fit_are_refused(saved, tmp_path, change, message):
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsCorruptedError, match="damaged or exchanged"):
        Shift.from_pretrained(tmp_path)
    with pytest.raises(WeightsMismatchError, match=message):
        Shift.from_pretrained(tmp_path, verify=False)


def test_the_callers_own_arguments_fail_as_they_do_in_the_constructor(saved, tmp_path):
    with pytest.raises(TypeError, match="sharpness"):
        Shift.from_pretrained(tmp_path, sharpness=1)
    with pytest.raises(ValueError, match="expected images to be"):
        Shift.from_pretrained(tmp_path, images="none")


def test_a_pickle_is_named_and_not_loaded(saved, tmp_path):
    (tmp_path / "model.safetensors").unlink()
    torch.save(saved.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsUnavailableError, match=r"pytorch_model\.bin is a pickle, which can run code"):
        Shift.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("tinny", "which is no folder here"),
        ("./nowhere", "which is no folder here"),
        ("a/b/c", "which is no folder here"),
        ("https://huggingface.co/a/b", "which is no folder here"),
    ],
)
def test_names_that_are_nothing(weights, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsUnavailableError, match=message):
        PureTransform.from_pretrained(weights)


def test_a_folder_has_no_revisions(saved, tmp_path):
    with pytest.raises(WeightsUnavailableError, match="no revision for the folder"):
        Shift.from_pretrained(tmp_path, revision="v1")


def test_a_constructor_with_weights_is_from_pretrained(saved, tmp_path):
    again = Shift(str(tmp_path), scale=0.25)
    assert (again.shape, again.scale, again.seed) == ((3, 2, 2), 0.25, 5) and torch.equal(again.shift, saved.shift)
    assert repr(again) == repr(Shift.from_pretrained(tmp_path, scale=0.25))

    class Fixed(Shift):
        def __init__(self) -> None:
            super().__init__(str(tmp_path))

    with pytest.raises(TypeError, match="Fixed must take weights="):
        Fixed()


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch 2.11 by itself
def test_a_compiled_network_saves_under_its_own_names(tmp_path):
    t = EBMPurify(weights=None, nf=2)
    names = set(t.state_dict())
    t.net = torch.compile(t.net)
    assert set(t.state_dict()) != names
    t.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == names


def test_the_card_shows_how_to_load_it(saved, tmp_path):
    text = (tmp_path / "README.md").read_text()
    assert "library_name: puretransforms" in text and "pipeline_tag: image-to-image" in text
    assert "Shift.from_pretrained(" in text and "license:" not in text  # which is not ours to choose
    JPEGCompress(30).save_pretrained(
        tmp_path / "jpeg", model_card_kwargs={"license": "mit", "repo_id": "me/j", "metrics": {"psnr": 31.5}}
    )
    text = (tmp_path / "jpeg" / "README.md").read_text()
    assert "license: mit" in text and 'from_pretrained("me/j")' in text and "value: 31.5" in text
