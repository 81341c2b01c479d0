"""``scan(source)``: is this data set poisoned, how, and what cures it?"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..transforms.ebm import EBMPurify
from ..transforms.vae import VAEPurify
from .calibration import apply_thresholds, calibration
from .detectors import DETECTORS, class_pattern, energy
from .finding import Finding
from .sample import Sample, gather
from .source import open_stream
from .verdict import Verdict, judge


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a scan found.

    Attributes:
        verdict: the conclusion, in words, with the recommended purifier.
        findings: one of each detector.
        sample: the images that were looked at.
    """

    verdict: Verdict
    findings: list[Finding]
    sample: Sample

    def __str__(self) -> str:
        lines = [self.verdict.words, f"Advice: {self.verdict.advice.words}.", ""]
        for f in self.findings:
            state = "evidence only" if f.silent else "ALARM" if f.alarm else "no alarm"
            above = "" if f.silent else f"; alarm above {f.threshold:.4f}"
            figures = f"{f.score:.4f} ({f.low:.4f} to {f.high:.4f}{above})"
            if f.untested:
                state, figures = f"not tested: {f.untested}", ""
            lines.append(f"{f.name:17s} {state:13s} {figures}".rstrip())
        return "\n".join(lines)

    def save(self, out: str | os.PathLike[str]) -> Path:
        """Write ``scan.json``, ``suspects.csv`` and ``scan.html`` into the folder ``out``; returns the report."""
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
    """Look for poison in a folder of class folders, or in a data set of ``(image, label)`` pairs.

    One pass over the drawn images; nothing is trained but small linear classifiers. Never says "clean": the verdict
    names what was looked for. Detectors compare the data with itself (classes, unlike pictures, residual against
    picture), so no clean reference set is needed; their thresholds come from CIFAR-10 (``calibration.json``).

    Args:
        source: a folder as for ``torchvision.datasets.ImageFolder``; or a map-style or iterable data set. Images as
            every transform of this library takes them, before augmentation and normalisation.
        sample: images to draw at random; ``None`` looks at all.
        seed: of the draw.
        workers: threads that decode files; default: one for each core this process may use.
        progress: show a progress bar.
        ebm: ranks images by their energy: a purifier, or the name or folder of its weights; ``None`` leaves that out.
        vae: a ``VAEPurify.fit(source)``, which says how large the pattern is that the label predicts.

    Raises:
        SourceError: no such folder, or no image in it that can be read.
        LabelError: samples that are no ``(image, integer label)`` pairs.
        NoImageError, RangeError: images of a data set that cannot be read as such.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"expected sample of at least 1 image, or None for all, got {sample}.")
    stream = open_stream(source, sample, seed, workers or _cores())
    with tqdm(total=stream.drawn, unit="img", desc="reading", disable=not progress) as bar:
        drawn = gather(_counted(stream.items, bar), stream.classes, stream.total, stream.drawn)
    findings = []
    detectors = DETECTORS | {"energy": partial(energy, ebm=ebm), "class pattern": partial(class_pattern, vae=vae)}
    with torch.no_grad(), tqdm(detectors.items(), desc="detectors", disable=not progress) as bar:
        for name, detector in bar:
            bar.set_postfix_str(name)
            findings.append(detector(drawn))
    known = calibration()
    for finding in apply_thresholds(findings, known["thresholds"]):
        _acquit(finding, drawn)
    verdict = judge(findings, looked_at=len(drawn), total=drawn.total, measured=known.get("measured", {}))
    return ScanResult(verdict, findings, drawn)


def _acquit(finding: Finding, sample: Sample) -> None:
    """No image of a class that was tested and is not above the threshold, if there is one, is a suspect."""
    if finding.images is not None and not finding.silent:
        for label, name in enumerate(sample.classes):
            if name in finding.classes and name not in finding.flagged:
                finding.images[sample.members(label)] = float("nan")


def _counted(items: Any, bar: tqdm) -> Any:
    for item in items:
        bar.update()
        yield item


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
