"""Named, pinned, hash-checked weights: bundled with the package, in a local folder, or on the Hugging Face Hub."""

from .load import load
from .weights import PurifierWeights, get_weights, list_weights

__all__ = ["PurifierWeights", "get_weights", "list_weights", "load"]
