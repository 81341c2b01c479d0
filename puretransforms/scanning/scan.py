"""``scan(source)``: is this dataset poisoned, how, and what cures it?"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import fill
from typing import Any, cast

import torch
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from ..reporting.tables import aligned
from ..transforms.ebm import EBMPurify
from ..transforms.vae import VAEPurify
from .calibration import calibration
from .detectors import DETECTORS, ClassPattern, Detector, Energy, Finding, Kind
from .sample import Sample, gather
from .source import Item, open_stream
from .verdict import Verdict, carriers, judge


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a scan found.

    Attributes:
        verdict: the conclusion, with its reasons and the recommended purifier.
        findings: one of each detector.
        sample: the images that were looked at.
    """

    verdict: Verdict
    findings: list[Finding]
    sample: Sample

    @property
    def insufficient(self) -> bool:
        """Could too few detectors look for a verdict? Then "no alarm" says nothing, and a build must not go on."""
        return self.verdict.kind is Kind.INSUFFICIENT

    @property
    def partial(self) -> bool:
        """Are there images in the source that were not drawn?"""
        return self.sample.total is not None and len(self.sample) + self.sample.left_out.total() < self.sample.total

    @property
    def flagged(self) -> list[int]:
        """Places in the sample of the images that a detector with an alarm names, ascending."""
        return sorted({i for finding in self.findings for i in finding.suspects})

    @property
    def carriers(self) -> dict[int, list[str]]:
        """The images that carry a trigger (:func:`~puretransforms.scanning.verdict.carriers`), and who names them.

        None where the verdict is no trigger: what a convolution does to all images makes some of them alike as well.
        """
        return carriers(self.findings, self.sample.labels) if self.verdict.kind is Kind.TRIGGERED else {}

    @property
    def scores(self) -> list[dict[str, Any]]:
        """A row for every image that was looked at, in the order of the source; ``pandas.DataFrame(result.scores)``.

        Keys: ``index`` (place among the images of the source), ``path`` (or the index again), ``class``, then the score
        of each detector that scores images (``None`` where it did not look at this one), and ``flagged``.
        """
        sample, flagged = self.sample, set(self.flagged)
        columns = {f.name: f.images.tolist() for f in self.findings if f.images is not None}
        rows = []
        for i in sorted(range(len(sample)), key=lambda i: sample.index[i]):
            named = {"index": sample.index[i], "path": sample.names[i], "class": sample.classes[int(sample.labels[i])]}
            scores = {name: None if values[i] != values[i] else values[i] for name, values in columns.items()}
            rows.append(named | scores | {"flagged": i in flagged})
        return rows

    def suspects(self, dataset: Dataset) -> Subset:
        """The flagged images of ``dataset``, which is what was scanned, or holds the same images in the same order."""
        return Subset(dataset, self._places(dataset))

    def clean_subset(self, dataset: Dataset) -> Subset:
        """``dataset`` without the flagged images.

        Raises:
            ValueError: not every image was looked at, or ``dataset`` holds other images than the source.
        """
        if self.partial:
            raise ValueError(
                f"expected a scan of all {self.sample.total} images, got one of {len(self.sample)}: "
                "scan(source, sample=None)."
            )
        without = set(self._places(dataset))
        return Subset(dataset, [i for i in range(len(cast(Sized, dataset))) if i not in without])

    def _places(self, dataset: Any) -> list[int]:
        """Where the flagged images stand in ``dataset``: by path if it lists its files, else by index."""
        flagged, sample = self.flagged, self.sample
        files, root = getattr(dataset, "samples", None), getattr(dataset, "root", None)
        if files and root and not all(name.isdecimal() for name in sample.names):
            place = {Path(os.path.relpath(file[0], root)).as_posix(): i for i, file in enumerate(files)}
            if all(sample.names[i] in place for i in flagged):
                return sorted(place[sample.names[i]] for i in flagged)
        if sample.total is not None and len(dataset) != sample.total:
            raise ValueError(
                f"expected the dataset that was scanned, {sample.total} images, got {len(dataset)} images: pass that."
            )
        return sorted(sample.index[i] for i in flagged)

    def __str__(self) -> str:
        """The verdict in a sentence, then reasons, known misses and advice as lists, then a row for each detector."""
        verdict = self.verdict
        lists = (("Why", verdict.reasons), ("Known to escape", verdict.misses), ("Advice", verdict.advice.lines))
        lines = [f"Verdict: {verdict.headline}", verdict.sentence]
        for name, entries in lists:
            if entries:
                lines += ["", f"{name}:", *(_folded(entry) for entry in entries)]
        rows = []
        for f in self.findings:
            state = "evidence only" if f.silent else "ALARM" if f.alarm else "no alarm"
            above = "" if f.silent else f"; threshold {f.threshold:.4f}"
            figures = f"{f.score:z.4f} ({f.low:z.4f} to {f.high:z.4f}{above})"
            rows.append((f.name, *((f"not tested: {f.untested}", "") if f.untested else (state, figures))))
        measured = ["", _folded(verdict.measured, "")] if verdict.measured else []
        bold = ", ".join(f.name for f in self.findings if not f.detector.cautious)
        rule = f"An alarm is a lower end of the 95 % interval above the threshold; for {bold}, a score above it."
        return "\n".join([*lines, "", "Detectors:", aligned(rows, widths=(17, 13)), "", rule, *measured])

    def _repr_html_(self) -> str:
        """What a notebook shows: the same text."""
        return f"<pre>{escape(str(self))}</pre>"

    def to_dict(self) -> dict[str, Any]:
        """Everything but pictures and single images, as plain data: the content of ``scan.json``."""
        from .report import as_json

        return as_json(self)

    def save(self, out: str | os.PathLike[str]) -> Path:
        """Write ``scan.html``, ``scan.json``, ``suspects.csv`` and ``scores.csv`` into ``out``; returns the report."""
        from .report import write

        return write(self, Path(out))


def scan(
    source: Any,
    *,
    sample: int | None = 5000,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    ebm: str | os.PathLike[str] | EBMPurify | None = "ebm-small-32",
    vae: VAEPurify | None = None,
) -> ScanResult:
    """Look for poison in a folder of class folders, or in a dataset of ``(image, label)`` pairs.

    One pass over the drawn images; nothing is trained but small linear classifiers. Never says "clean": the verdict
    names what was looked for. Detectors compare the data with itself (classes, unlike pictures, residual against
    picture), so no clean reference set is needed; their thresholds come from CIFAR-10 (``calibration.json``). Where too
    few of them could look, the verdict is "insufficient".

    Args:
        source: a folder as for ``torchvision.datasets.ImageFolder`` or tar shards, also by URL; ``"hf:NAME#SPLIT"`` or
            ``"torchvision:CLASS:ROOT#SPLIT"``; a map-style or iterable dataset, whose own transforms are left out; a
            pair ``(images, labels)``, or images ``[N, 3, H, W]`` alone, which are one class; a
            :class:`~puretransforms.data.sources.base.Source`. Images as every transform of this library takes them,
            before augmentation and normalisation.
        sample: images to draw at random; ``None`` looks at all.
        seed: of the draw.
        workers: threads that decode files; default: one for each core this process may use.
        progress: show a progress bar.
        ebm: ranks images by their energy: a purifier, or the name or folder of its weights; ``None`` leaves that out.
        vae: a ``VAEPurify(weights=None).fit(source)``, which says how large the pattern is that the label predicts.

    Raises:
        SourceError: no such folder, or no image in it that can be read.
        LabelError: samples that are no ``(image, integer label)`` pairs.
        NoImageError, RangeError: images of a dataset that cannot be read as such.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"expected sample of at least 1 image, or None for all, got {sample}.")
    stream = open_stream(source, sample, seed, workers or _cores())
    with tqdm(total=stream.drawn, unit="img", desc="reading", disable=not progress) as bar:
        drawn = gather(_counted(stream.items, bar), stream.classes, stream.total, stream.drawn)
    return examine(drawn, ebm=ebm, vae=vae, progress=progress)


def examine(
    sample: Sample,
    *,
    ebm: str | os.PathLike[str] | EBMPurify | None = None,
    vae: VAEPurify | None = None,
    progress: bool = False,
) -> ScanResult:
    """All detectors on images that have been read, and the verdict.

    Args:
        sample: what was read, or a part of it (:meth:`Sample.without`).
        ebm: of :func:`scan`.
        vae: likewise.
        progress: likewise.
    """
    known = calibration()
    detectors: list[Detector] = [kind(threshold=known["thresholds"][name]) for name, kind in DETECTORS.items()]
    detectors += [Energy(ebm=ebm), ClassPattern(vae=vae)]
    findings = []
    with torch.no_grad(), tqdm(detectors, desc="detectors", disable=not progress) as bar:
        for detector in bar:
            bar.set_postfix_str(detector.name)
            findings.append(detector(sample))
    held = Counter(sample.classes[label] for label in sample.labels.tolist())
    measured = known.get("measured", {})
    verdict = judge(
        findings,
        looked_at=len(sample),
        total=sample.total,
        left_out=sample.left_out.total(),
        measured=measured,
        classes=held,
        labels=sample.labels,
    )
    return ScanResult(verdict, findings, sample)


def _folded(text: str, mark: str = "- ") -> str:
    """An entry of a list, in lines of at most 100 characters."""
    return fill(text, 100, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False)


def _counted(items: Iterable[Item], bar: tqdm) -> Iterator[Item]:
    for item in items:
        bar.update()
        yield item


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
