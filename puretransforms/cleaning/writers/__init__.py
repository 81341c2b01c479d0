"""A writer for each kind of output."""

from ...data.sources.base import Source
from ...data.sources.huggingface import HuggingFaceDataset
from ...data.sources.map_style import ImageDataset
from ...data.sources.webdataset import WebDatasetShards
from ..manifest import Layout
from .base import Writer
from .folder import DatasetWriter, FolderWriter
from .parquet import ParquetWriter
from .tar import TarWriter

_WRITERS = {WebDatasetShards: TarWriter, HuggingFaceDataset: ParquetWriter, ImageDataset: DatasetWriter}


def writer_for(source: Source, layout: Layout) -> Writer:
    """The writer of this kind of source; the one place that asks for the kind."""
    return next((kind for of, kind in _WRITERS.items() if isinstance(source, of)), FolderWriter)(source, layout)
