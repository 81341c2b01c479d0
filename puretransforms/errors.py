"""One tree of errors. Every message says what was expected, what came, and how to fix it."""


class PureTransformsError(Exception):
    """Base of every error that this library raises on purpose."""


class NoImageError(PureTransformsError, TypeError):
    """A sample held nothing that can be transformed as an image (numpy HWC, labels only, an unsupported mode)."""


class RangeError(PureTransformsError, ValueError):
    """Pixel values lie outside ``[0, 1]``: the image was normalised, or is 0..255 held in floats."""


class LabelError(PureTransformsError, ValueError):
    """A label is missing, has the wrong shape, or is outside the range that the poison was made for."""


class ForkedWorkerError(PureTransformsError, RuntimeError):
    """CUDA work was asked for inside a forked DataLoader worker, where CUDA cannot run."""


class SourceError(PureTransformsError, ValueError):
    """The images to clean cannot be read as asked: no such folder, no image in it, target inside the source."""


class CorruptImageError(PureTransformsError, ValueError):
    """A file could not be decoded as an image, where it cannot be left out (``clean`` puts it into the quarantine)."""


class PurifierError(PureTransformsError, TypeError):
    """A purifier gave back something else than uint8 of the shape that it was given."""


class WorkerDiedError(PureTransformsError, RuntimeError):
    """A worker process was killed from outside, most likely for want of memory; the same call again goes on."""


class OutputError(PureTransformsError, OSError):
    """The output cannot be written: the disk is full, the folder is read-only; the same call again goes on."""


class StoreError(PureTransformsError, OSError):
    """An object store refused a request, or failed it again and again; the same call again goes on."""


class ManifestMismatchError(PureTransformsError, ValueError):
    """The output folder was made by another configuration, or its files differ from its manifest."""


class DivergenceError(PureTransformsError, ArithmeticError):
    """A training loss became NaN or infinite."""


class WeightsUnavailableError(PureTransformsError, OSError):
    """Network weights are not on this machine and cannot be had: unknown, offline, private, gated, download failed."""


class WeightsCorruptedError(PureTransformsError, OSError):
    """A weights file is not what it was: another hash than pinned, no valid file, or values that are not finite."""


class WeightsMismatchError(PureTransformsError, ValueError):
    """Weights or a config of another class, network or version than the one asked for."""


class CompilationError(PureTransformsError, RuntimeError):
    """``compiled=True`` was asked for where ``torch.compile`` does not work, most likely for want of a compiler."""


class MissingExtraError(PureTransformsError, ImportError):
    """A package of an optional extra is not installed."""


class UntouchedImageWarning(UserWarning):
    """A second image-like tensor of a sample was passed through unpurified; ``images="all"`` purifies every one."""


class InsufficientScanWarning(UserWarning):
    """A scan could not look well enough at the data to advise a purifier, so that images stay as they are."""


class SizeError(PureTransformsError, ValueError):
    """Images of a size that pretrained weights are of no use for."""


class LeftOutWarning(UserWarning):
    """Files that cannot be decoded were left out of a dataset that was read into memory."""


class SizeWarning(UserWarning):
    """A pretrained purifier was given images of a size far from those that its weights are for."""


class NotFittedError(PureTransformsError, RuntimeError):
    """A purifier or poison that must see a dataset first was used before it did, or on images of another shape."""


class SurrogateError(PureTransformsError, TypeError):
    """A network given as surrogate has not the layer, or the number of networks, that the poison works on."""


class HardwareError(PureTransformsError, RuntimeError):
    """Work was asked of a CPU that takes days there, or of a GPU that is not there."""


class BenchmarkError(PureTransformsError, ValueError):
    """A benchmark was asked for by a name that it does not know, or in words that say no grid."""


class RegistryError(PureTransformsError, ValueError):
    """A purifier or poison was asked for by a name, or with options, that nothing answers to."""
