"""A Hugging Face dataset to Parquet: a file for each unit, with the features of the dataset in its schema.

A row whose image is damaged stays, without its image; one that is put aside as a suspect is left out.
"""

from itertools import accumulate
from typing import Any

from ...data.sources.huggingface import HuggingFaceDataset, from_parquet
from ..manifest import MANIFEST, Row, read_rows
from .base import ContainerWriter, Unit


class ParquetWriter(ContainerWriter):
    """Of :class:`~puretransforms.data.sources.huggingface.HuggingFaceDataset`."""

    loads_into_memory = True
    source: HuggingFaceDataset

    def targets(self, cuts: list[tuple[int, int]]) -> list[tuple[str, str | None]]:
        names = [f"data/{self.source.split}-{i:05d}-of-{len(cuts):05d}.parquet" for i in range(len(cuts))]
        places: list[tuple[str, str | None]] = []
        for name, (start, end) in zip(names, cuts, strict=True):
            kept = [entry.path not in self.suspects for entry in self.source.entries[start:end]]
            places += [(name, str(row - stays)) for row, stays in zip(accumulate(kept), kept, strict=True)]
        return places

    @property
    def folders(self) -> list[str]:
        return ["", "data"]

    def build(self, path: str, unit: Unit, lost: set[int]) -> str | None:
        """One row group; it replaces no file."""
        import pyarrow.parquet

        images = [self.staged(unit.number, task.place) for task in unit.tasks]
        table = self.source.table(unit.tasks[0].entry.where[0], images, lost)
        pyarrow.parquet.write_table(table.take([task.place for task in unit.tasks if not task.suspect]), path)
        return None

    def read_back(self, row: Row) -> bytes:
        import pyarrow.parquet

        with self.layout.store.open(row["out"]) as file:
            column = pyarrow.parquet.read_table(file, columns=[self.source.image_key]).column(0)
            return column[int(row["member"])].as_py()["bytes"]

    def load(self, *, in_memory: bool = False) -> Any:
        """A ``datasets.Dataset`` with the same features, in memory."""
        with self.layout.store.open(MANIFEST) as lines:
            files = [row["out"] for row in read_rows(lines) if row["status"] == "packed"]
        return from_parquet([self.layout.store.open(name) for name in files], self.source)
