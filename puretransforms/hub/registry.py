"""The weights that have a name: what they are, where they come from, and the hashes that pin them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from ..errors import WeightsUnavailableError
from .files import CONFIG, WEIGHTS

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class PurifierWeights:
    """One named entry.

    Attributes:
        name: what :func:`get_weights` and the transforms take.
        transform: the class that it is for.
        repo_id: repo on the Hugging Face Hub.
        revision: commit of that repo; ``None`` as long as it has not been pushed.
        sha256: of the files, by file name: model.safetensors and config.json.
        image_size: side of the training images in pixels.
        training_data: what it was trained on, in a sentence.
        license: of the weights, an SPDX name in lower case.
        paper: the method's, ``arXiv:...``.
        summary: what it is and what it is not good for, in a few sentences.
        metrics: measured values by name, on ``measured_on``.
        datasets: ids on the Hub of the data sets that it was trained on, if they are there.
        recipe: how to make it again.
    """

    name: str
    transform: str
    repo_id: str
    revision: str | None
    sha256: Mapping[str, str]
    image_size: int
    training_data: str
    license: str
    paper: str
    summary: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    measured_on: str = "held-out images"
    datasets: tuple[str, ...] = ()
    recipe: str = "`recipe.py`, which lies beside the weights"

    def folder(self) -> Path | None:
        """Where the package (or the checkout that it is installed from) carries it; ``None`` where it does not."""
        for root in (_PACKAGE, _PACKAGE.parent):
            folder = root / "weights" / self.name
            if (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file():
                return folder
        return None


_ENTRIES: dict[str, PurifierWeights] = {}


def list_weights() -> list[str]:
    """Names of all registered weights, sorted."""
    return sorted(_ENTRIES)


def get_weights(name: str) -> PurifierWeights:
    """The entry of that name.

    Raises:
        WeightsUnavailableError: there is none.
    """
    if name not in _ENTRIES:
        near = get_close_matches(name, _ENTRIES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise WeightsUnavailableError(
            f"expected one of {', '.join(map(repr, list_weights())) or 'none registered'}, got {name!r}.{hint}"
        )
    return _ENTRIES[name]
