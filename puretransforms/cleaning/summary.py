"""What a manifest says as a whole, gathered row by row."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .manifest import Row

LEVEL = 0.25  # of 0 to 255
_PICTURES, _MOST_CHANGED, _LISTED, _NAMED = 12, 20, 1000, 3


@dataclass(slots=True)
class ClassChange:
    """How much the images of one class changed, as sums."""

    images: int = 0
    changed: int = 0
    mean_abs: float = 0.0
    psnr: float = 0.0


@dataclass(slots=True)
class Summary:
    """Counts, changes and a few rows of a manifest; its memory grows with the number of classes alone.

    Attributes:
        counts: files by status.
        notes: ``"frames"``: images of several frames; ``"unpurified"``: copied files that look like images;
            ``"suspects"``: images that a scan had put aside.
        classes: change by label.
        aside: the first quarantined and skipped rows.
        damaged: paths of the first images that could not be read.
        most_changed: ``(mean_abs, path, row)`` of the images that changed most.
        levels: images by change, in steps of a quarter level (:data:`LEVEL`).
    """

    counts: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    classes: dict[str, ClassChange] = field(default_factory=dict)
    aside: list[Row] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    most_changed: list[tuple[float, str, Row]] = field(default_factory=list)
    levels: Counter[int] = field(default_factory=Counter)
    _first: dict[str, tuple[str, str, Row]] = field(default_factory=dict)
    _others: list[tuple[str, str, Row]] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Summary":
        """Gather all ``rows``."""
        summary = cls()
        for row in rows:
            summary._add(row)
        return summary

    @property
    def unchanged(self) -> int:
        """Purified images that came out as they went in."""
        return sum(change.images - change.changed for change in self.classes.values())

    def remarks(self, aside: str) -> list[str]:
        """What happened to images that were not simply purified; the first damaged ones are named.

        Args:
            aside: the quarantine folder.
        """
        suspects = self.notes["suspects"]
        damaged = self.counts["quarantined"] - suspects
        first = ", ".join([*self.damaged, *["..."] * (damaged > len(self.damaged))])
        remarks = (
            (suspects, "image(s) that carry a trigger were put aside in the quarantine folder"),
            (damaged, f"damaged image(s) were put aside: {first} -> {aside}/"),
            (self.counts["skipped"], "link(s) or file(s) were not read"),
            (self.notes["frames"], "image(s) have several frames, of which only the first was kept"),
            (self.notes["unpurified"], "file(s) that look like images were copied unpurified"),
        )
        return [f"{number} {what}" for number, what in remarks if number]

    def sample(self) -> list[Row]:
        """The rows to show: one of each class, then more, chosen by the hash of their paths."""
        firsts = heapq.nsmallest(_PICTURES, self._first.values())
        chosen = {path: row for _, path, row in [*firsts, *heapq.nsmallest(_PICTURES, self._others)]}
        return sorted(list(chosen.values())[:_PICTURES], key=lambda row: row["path"])

    def _add(self, row: Row) -> None:
        if row["status"] == "packed":
            return
        self.counts[row["status"]] += 1
        self.notes["frames"] += "frames" in row
        self.notes["suspects"] += "suspect" in row
        if row["status"] != "purified":
            self.notes["unpurified"] += row["status"] == "copied" and "reason" in row
            if row["status"] == "quarantined" and "suspect" not in row and len(self.damaged) < _NAMED:
                self.damaged.append(row["path"])
            if row["status"] != "copied" and len(self.aside) < _LISTED:
                self.aside.append(row)
            return
        change = self.classes.setdefault(row["label"], ClassChange())
        change.images += 1
        change.changed += row["psnr"] is not None
        change.mean_abs += row["mean_abs"]
        change.psnr += row["psnr"] or 0.0
        self.levels[int(row["mean_abs"] / LEVEL)] += 1
        path = row["path"]
        _keep(self.most_changed, (row["mean_abs"], path, row), _MOST_CHANGED)
        mark = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
        drawn = (mark, path, row)
        self._first[row["label"]] = min(self._first.get(row["label"], drawn), drawn)
        self._others.append(drawn)
        if len(self._others) > 4 * _PICTURES:
            self._others = heapq.nsmallest(_PICTURES, self._others)


def _keep(heap: list[tuple[float, str, Row]], item: tuple[float, str, Row], size: int) -> None:
    if len(heap) < size:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)
