"""``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` of every purifier.

The names and arguments are those of ``huggingface_hub.PyTorchModelHubMixin``, whose place this takes: it would load
other keys than the network's without a word, fall back to pickles, and leave hashes unchecked.
"""

import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin
from warnings import warn
from weakref import WeakSet

import torch
from huggingface_hub import CommitInfo, ModelCard, PyTorchModelHubMixin
from torch import nn

from ..errors import SizeError, SizeWarning, WeightsMismatchError
from ..registry import parameters, refuse_unknown
from .files import CARD, CONFIG, WEIGHTS, LoadedWeights, sha256_of, state_bytes, write
from .load import load
from .push import push
from .weights import facts_of, model_card, registered_as, sizes_for

_UNSAVED = ("weights", "device", "compiled")  # where weights came from, where and how they ran: not the purifier's own
M = TypeVar("M", bound="Pretrained")
_WARNED: WeakSet["Pretrained"] = WeakSet()  # of a size; outside the purifiers, which calls leave as they are
_LONGEST = 180  # letters of a reason that torch gives
_REFUSALS = (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError, AttributeError, MemoryError)


class Pretrained(PyTorchModelHubMixin):
    """Mixin of :class:`~puretransforms.transforms.base.PureTransform`."""

    _trained = False  # is the state one that was loaded or fitted?
    _made_for: tuple[int, int] | None = None  # shortest and longest side of images, in pixels, of pretrained weights
    _refuses_sizes = False  # others than these; else it warns

    if not TYPE_CHECKING:  # a type checker reads the arguments of __init__

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            cls._check_given(args, kwargs)
            instance = super().__new__(cls, *args, **kwargs)
            positional = list(inspect.signature(cls.__init__).parameters)[1:]
            instance.__dict__["_given"] = dict(zip(positional, args, strict=False)) | kwargs
            return instance

    @classmethod
    def _check_given(cls, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        """Refuse arguments of the constructor that Python or ``__init__`` would refuse less clearly."""
        refuse_unknown(cls, given)

    def _become(self, weights: str | Path) -> None:
        """What a constructor does with ``weights``: take the saved arguments for those that were not given, and load.

        ``EBMPurify(name, steps=10)`` is ``EBMPurify.from_pretrained(name, steps=10)``.
        """
        if "weights" not in parameters(type(self)):
            raise TypeError(f"{type(self).__name__} must take weights= and hand it up, for it has to be built without.")
        given = {
            name: value
            for name, value in self.__dict__.pop("_given").items()
            if name != "weights" and value is not None
        }
        self.__dict__ |= type(self).from_pretrained(weights, **given).__dict__

    @classmethod
    def from_pretrained(
        cls: type[M],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        verify: bool = True,
        sha256: str | None = None,
        **overrides: Any,
    ) -> M:
        """A purifier from a registered name, a folder or a repo of the Hugging Face Hub.

        The class is the saved one (``PureTransform.from_pretrained`` takes any), its arguments are the saved ones
        unless overridden, and the state is loaded strictly, in the dtype of the file, in eval mode on the CPU.

        Args:
            pretrained_model_name_or_path: a registered name, a folder, or a repo ``user/name`` or
                ``user/name@revision``.
            revision: branch, tag or commit of the repo. Of registered weights it replaces the pinned commit, and then
                their pinned hashes are not asked for.
            cache_dir: of downloads; ``None`` for that of ``huggingface_hub``.
            token: of the Hugging Face Hub; ``None`` for that of ``hf auth login``.
            local_files_only: ask no network.
            force_download: even where the files are in the cache or in the package.
            verify: compare hashes: the registered ones, else the one in config.json and what the Hub says of its files.
            sha256: what model.safetensors must have, to pin weights of your own.
            **overrides: arguments of the constructor.

        Raises:
            WeightsUnavailableError, WeightsCorruptedError: as in :func:`puretransforms.hub.load.load`.
            WeightsMismatchError: weights of another class or network, or a config that the class does not understand.
        """
        loaded = load(
            pretrained_model_name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
            verify=verify,
            sha256=sha256,
        )
        kind = _saved_class(cls, loaded)
        model: Any = kind._restored(loaded, overrides)
        model._made_for = sizes_for(loaded)
        if loaded.label is not None:
            model.pretrained = loaded.label
        return model

    @classmethod
    def _foreign_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Translate the config of another library's checkpoint into arguments of this class."""
        return config

    @classmethod
    def _restored(cls, loaded: LoadedWeights, overrides: Mapping[str, Any]) -> "Pretrained":
        known = parameters(cls)
        config = cls._foreign_config(dict(loaded.config)) if loaded.transform is None else dict(loaded.config)
        unknown = config.keys() - known.keys()
        if unknown:
            raise WeightsMismatchError(
                f"{cls.__name__} takes no {', '.join(sorted(map(repr, unknown)))}, which {CONFIG} of {loaded.origin} "
                "sets: it was written by another version or another library; pip install --upgrade puretransforms, or "
                "take it out if it is no setting of the network."
            )
        saved = {key: _decoded(value, known[key], loaded.origin) for key, value in config.items()}
        untrained = {"weights": None} if "weights" in known else {}
        try:
            skeleton = _skeleton(cls, saved | untrained)
        except _REFUSALS as error:
            raise WeightsMismatchError(f"{CONFIG} of {loaded.origin} makes no {cls.__name__}: {error}") from error
        arguments = saved | dict(overrides) | untrained
        if overrides:
            skeleton = _skeleton(cls, arguments)
        before = {name: tensor.is_floating_point() for name, tensor in skeleton.state_dict().items()}
        _load_strictly(skeleton, dict(loaded.state), loaded.origin, assign=True)
        state = skeleton.state_dict()
        odd = [name for name, tensor in state.items() if tensor.is_floating_point() != before[name]]
        if odd:
            raise WeightsMismatchError(
                f"expected {odd[0]!r} of {loaded.origin} to be {'float' if before[odd[0]] else 'integer'}, got "
                f"{state[odd[0]].dtype}: save it again in its own dtype."
            )
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
            model: Any = cls(**arguments)
            for name, tensor in model.state_dict(keep_vars=True).items():
                tensor.data = tensor.data.to(state[name].dtype)
            _load_strictly(model, state, loaded.origin)
        for part in model.modules():
            if isinstance(part, Pretrained):  # the purifiers of a chain too
                part._trained = True
        return model.eval()

    def _check_size(self, height: int, width: int) -> None:
        """Warn, once for each purifier, of images outside the sizes that its pretrained weights are for, or refuse."""
        sizes = self._made_for
        if sizes is None or (min(height, width) >= sizes[0] and max(height, width) <= sizes[1]):
            return
        if self._refuses_sizes:
            raise SizeError(
                f"expected images with sides from {sizes[0]} to {sizes[1]} pixels, which the weights of this "
                f"{type(self).__name__} are for, got {height} x {width}: resize them, train weights for their size, or "
                "use UNetPurify, whose weights are for photographs too."
            )
        if self in _WARNED:
            return
        _WARNED.add(self)
        warn(
            f"{type(self).__name__} got images of {height} x {width} pixels, but its weights are for sides from "
            f"{sizes[0]} to {sizes[1]} pixels: expect grain and wrong colours; resize the images, or train weights for "
            "their size.",
            SizeWarning,
            stacklevel=3,
        )

    def _config(self) -> dict[str, Any]:
        """The constructor's arguments as they are now."""
        made_with = self._hub_mixin_config if isinstance(self._hub_mixin_config, dict) else {}
        config = {}
        for name in parameters(type(self)):
            if name not in _UNSAVED:
                value = getattr(self, name, None)
                plain = isinstance(value, bool | int | float | str | list | tuple | dict | None)
                config[name] = value if hasattr(self, name) and plain else made_with.get(name)
        return config

    def _save_pretrained(self, save_directory: Path) -> None:
        write(save_directory, type(self).__name__, self._config(), self._plain_state(), self._made_for)

    def _plain_state(self) -> dict[str, torch.Tensor]:
        """The state under the network's own names, also where it is compiled."""
        return {name.replace("_orig_mod.", ""): tensor for name, tensor in self.state_dict().items()}  # type: ignore[attr-defined]

    def generate_model_card(self, **fields: Any) -> ModelCard:
        """The card of this purifier; ``fields`` are those of :func:`~puretransforms.hub.weights.model_card`.

        Of registered weights that were not changed, it says what is registered, unless ``fields`` say otherwise.
        """
        entry = registered_as(sha256_of(state_bytes(self._plain_state())))
        return model_card(type(self).__name__, **({} if entry is None else facts_of(entry)) | fields)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push purifier with puretransforms",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
    ) -> CommitInfo:
        """Write config, weights and card to the repo in one commit, which comes back: ``.oid`` is what to pin.

        Raises:
            WeightsUnavailableError: as in :func:`puretransforms.hub.push.push`.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(folder, model_card_kwargs={"repo_id": repo_id} | (model_card_kwargs or {}))
            files = {file: (folder / file).read_bytes() for file in (CONFIG, WEIGHTS, CARD)}
        return push(
            files,
            repo_id,
            commit_message=commit_message,
            token=token,
            private=private,
            branch=branch,
            create_pr=create_pr,
        )


def _saved_class(asked: type[Pretrained], loaded: LoadedWeights) -> type[Pretrained]:
    """The class that the config names, where it is ``asked`` or below it; ``asked``, where it is below that one."""
    kinds = {kind.__name__: asked for kind in asked.__mro__ if issubclass(kind, Pretrained)}
    kinds |= {kind.__name__: kind for kind in _below(asked)}
    if loaded.transform in kinds:
        return kinds[loaded.transform]
    if loaded.transform is not None:
        others = {kind.__name__ for kind in _below(Pretrained)}
        fix = (
            f"use {loaded.transform}.from_pretrained"
            if loaded.transform in others
            else f"import the module that defines {loaded.transform} first, or upgrade puretransforms"
        )
        raise WeightsMismatchError(
            f"expected weights of {asked.__name__}, got those of {loaded.transform} from {loaded.origin}: {fix}."
        )
    if "_class_name" in loaded.config:
        raise WeightsMismatchError(
            f"{loaded.origin} holds a {loaded.config['_class_name']} of diffusers, which no purifier here can run."
        )
    if asked in Pretrained.__subclasses__():
        raise WeightsMismatchError(
            f"{CONFIG} of {loaded.origin} names no transform: call from_pretrained of the class that it is for."
        )
    return asked


def _skeleton(kind: type[Pretrained], arguments: dict[str, Any]) -> Any:
    """The purifier without memory for its tensors: no config can ask for more of it than there is."""
    with torch.device("meta"):
        return kind(**arguments)


def _below(kind: type) -> list[type]:
    found: list[type] = [kind]
    for child in kind.__subclasses__():  # type: ignore[var-annotated]
        found += _below(child)
    return found


def _decoded(value: Any, parameter: inspect.Parameter, origin: str) -> Any:
    """The JSON value as the argument's type; JSON knows no tuples."""
    allowed = get_args(parameter.annotation) or (parameter.annotation,)
    plain = [get_origin(kind) or kind for kind in allowed]
    if isinstance(value, list) and list not in plain:
        value = tuple(value)
    if type(value) is int and int not in plain and float in plain:
        value = float(value)
    simple = [kind for kind in plain if isinstance(kind, type)]
    if len(simple) == len(plain) and inspect.Parameter.empty not in simple and type(value) not in simple:
        names = " or ".join(kind.__name__ for kind in simple)
        raise WeightsMismatchError(
            f"expected {parameter.name} of {CONFIG} of {origin} to be {names}, got {value!r}: correct it."
        )
    return value


def _load_strictly(model: nn.Module, state: dict[str, torch.Tensor], origin: str, assign: bool = False) -> None:
    try:
        model.load_state_dict(state, strict=True, assign=assign)
    except RuntimeError as error:
        lines = [_sorted_keys(line.strip()) for line in str(error).splitlines()[1:4]]
        reasons = [line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..." for line in lines]
        raise WeightsMismatchError(
            f"expected weights of this {type(model).__name__} from {origin}, got those of another network; load them "
            f"with the class and the {CONFIG} that they were saved with: {' '.join(reasons) or error}"
        ) from error


def _sorted_keys(reason: str) -> str:
    """Torch lists unexpected keys in the order of a set, which changes from process to process: here sorted."""
    intro, colon, keys = reason.partition("state_dict: ")
    if not colon:
        return reason
    return f"{intro}{colon}{', '.join(sorted(keys.rstrip('. ').split(', ')))}."
