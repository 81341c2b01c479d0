"""Golden outputs: what every transform, every poison and ``clean`` give for fixed seeds, as sha256 hashes.

    python experiments/golden.py --out before.json        # record
    python experiments/golden.py --compare before.json    # list what differs now; exit status 1 if anything does

Run on both sides of a change that must keep results. The data are synthetic, one torch thread is used, and each case
stands alone: one that fails is recorded as ``error: ...``. Hashes of networks hold on one kind of CPU.
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import puretransforms
from puretransforms import PoisonedDataset, clean, poisons

# --- adapters: all that knows how the package is called -----------------------------------------------------------


def purifier_class(name: str) -> Any:
    if hasattr(puretransforms, name):
        return getattr(puretransforms, name)
    from puretransforms.transforms import projection

    return getattr(projection, name)


def make_purifier(name: str, options: dict[str, Any]) -> Any:
    return purifier_class(name)(**options)


def fit_projection(images: torch.Tensor, labels: torch.Tensor, **options: Any) -> Any:
    return purifier_class("OrthogonalProjection")(**options).fit((images, labels))


def fit_vae(images: torch.Tensor, labels: torch.Tensor, **options: Any) -> Any:
    from puretransforms.train.rate import FitSchedule

    schedule = FitSchedule(epochs=2, batch_size=20)
    return purifier_class("VAEPurify")(weights=None, **{"arch": "published", "seed": 0} | options).fit(
        (images, labels), schedule=schedule
    )


def make_poison(name: str, options: dict[str, Any]) -> Any:
    return getattr(poisons, name)(**options)


def poisoned(images: torch.Tensor, labels: torch.Tensor, poison: Any, rate: float) -> Any:
    return PoisonedDataset(TensorDataset(images, labels), poison, rate=rate, seed=3)


def crafted(name: str, options: dict[str, Any], images: torch.Tensor, labels: torch.Tensor) -> Iterator[Any]:
    bases = (labels == 2).nonzero()[:, 0]
    setup = poisons.TargetedSetup(target=images[0], target_class=0, base_class=2, base_indices=bases)
    found = getattr(poisons, name)(**options).fit((images, labels), setup=setup)
    delta = found.delta.mul(255).round().to(torch.int8)
    yield from (found.bases, delta, found(images, labels, torch.arange(len(images)))[0])


# --- data ---------------------------------------------------------------------------------------------------------

CLASSES = ["ant", "bee", "cow", "dog"]


def synthetic(count: int = 40, size: int = 32, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth coloured fields with some noise, uint8 ``[N, 3, H, W]``, and labels that go round."""
    stream = np.random.RandomState(0)
    coarse = torch.from_numpy(stream.uniform(0, 255, (count, 3, 5, 5)))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)
    noisy = smooth + torch.from_numpy(stream.normal(0, 6, (count, 3, size, size)))
    return noisy.round().clamp(0, 255).to(torch.uint8), torch.arange(count) % classes


def pictures(count: int = 20) -> tuple[list[Image.Image], list[int], list[bytes]]:
    """Images, targets sorted by class, and their PNG files."""
    images, _ = synthetic(count)
    out = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    files = []
    for image in out:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        files.append(buffer.getvalue())
    return out, sorted(i % len(CLASSES) for i in range(count)), files


def digest(*values: Any) -> str:
    """sha256 over types, shapes and bytes."""
    sha = hashlib.sha256()
    for value in values:
        if isinstance(value, Image.Image):
            sha.update(f"{value.mode}{value.size}".encode())
            value = np.asarray(value)
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous().numpy()
        if isinstance(value, np.ndarray):
            sha.update(f"{value.dtype}{value.shape}".encode())
            value = np.ascontiguousarray(value).tobytes()
        sha.update(value if isinstance(value, bytes) else repr(value).encode())
    return sha.hexdigest()


# --- transforms ---------------------------------------------------------------------------------------------------

PURIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "AutoPurify": ("AutoPurify", {"chain": [{"name": "coin", "alpha": 1.5}, {"name": "jpeg", "quality": 40}]}),
    "BitDepthReduce": ("BitDepthReduce", {}),
    "COINInterpolate": ("COINInterpolate", {}),
    "COINInterpolate-circular-trunc": ("COINInterpolate", {"boundary": "circular", "quantize": "trunc"}),
    "COINInterpolate-border": ("COINInterpolate", {"alpha": 0.7, "boundary": "border"}),
    "COINInterpolate-reflect": ("COINInterpolate", {"boundary": "reflect", "chunk_size": 3}),
    "DecoyNoise": ("DecoyNoise", {}),
    "EBMPurify": ("EBMPurify", {"steps": 3, "precision": "fp32"}),
    "EBMPurify-repeats": ("EBMPurify", {"steps": 2, "repeats": 2, "precision": "fp32", "chunk_size": 4}),
    "EBMPurify-published-untrained": (
        "EBMPurify",
        {"weights": None, "arch": "published", "nf": 8, "steps": 2, "precision": "fp32"},
    ),
    "GaussianBlur": ("GaussianBlur", {}),
    "Grayscale": ("Grayscale", {}),
    "JPEGCompress": ("JPEGCompress", {}),
    "JPEGCompress-75": ("JPEGCompress", {"quality": 75}),
    "MedianBlur": ("MedianBlur", {}),
    "VAEPurify": ("VAEPurify", {"precision": "fp32"}),
    "VAEPurify-sample": ("VAEPurify", {"precision": "fp32", "sample": True}),
}


def purified(make: Callable[[], Any], kind: str) -> str:
    images, labels = synthetic(8)
    transform = make()
    if kind == "uint8":
        return digest(transform(images))
    if kind == "float":
        return digest(transform(images.float() / 255))
    if kind == "labelled":
        out, kept = transform(images, labels)
        return digest(out, kept)
    if kind == "energy":
        return digest(transform.energy(images))
    if kind == "drawn":  # without a seed: what the global generator gives
        torch.manual_seed(11)
        return digest(transform(images))
    return digest(transform(Image.fromarray(images[0].permute(1, 2, 0).numpy())))


def transform_cases() -> Iterator[tuple[str, Callable[[], str]]]:
    for title, (name, options) in PURIFIERS.items():
        for kind in ("uint8", "float", "pil"):
            make = lambda name=name, options=options: make_purifier(name, {"seed": 7, **options})  # noqa: E731
            yield f"transform/{title}/{kind}", lambda make=make, kind=kind: purified(make, kind)
    for title in ("COINInterpolate", "EBMPurify", "VAEPurify-sample"):
        name, options = PURIFIERS[title]
        make = lambda name=name, options=options: make_purifier(name, options)  # noqa: E731
        yield f"transform/{title}/unseeded", lambda make=make: purified(make, "drawn")
    energy = lambda: make_purifier("EBMPurify", {"seed": 7, "precision": "fp32"})  # noqa: E731
    yield "transform/EBMPurify/energy", lambda: purified(energy, "energy")

    projection = lambda: fit_projection(*synthetic(40), num_classes=4, epochs=3, batch_size=16, seed=7)  # noqa: E731
    options = {"width": 8, "latent": 8, "arch": "small", "seed": 7, "precision": "fp32"}
    vae = lambda: fit_vae(*synthetic(40), **options)  # noqa: E731
    sampled = lambda: fit_vae(*synthetic(40), **options, sample=True)  # noqa: E731
    for title, make, kinds in (
        ("OrthogonalProjection", projection, ("uint8", "float", "pil")),
        ("VAEPurify-fitted", vae, ("uint8", "float", "pil", "labelled")),
        ("VAEPurify-fitted-sample", sampled, ("uint8", "labelled")),
    ):
        for kind in kinds:
            yield f"transform/{title}/{kind}", lambda make=make, kind=kind: purified(make, kind)


# --- poisons ------------------------------------------------------------------------------------------------------

EM = {"width": 8, "max_rounds": 2, "train_steps": 2, "pgd_steps": 2, "step": 2 / 255}
PGD = {"width": 8, "epochs": 1, "steps": 3, "step": 2 / 255}
POISONS: dict[str, tuple[str, dict[str, Any], float]] = {
    "AR": ("AR", {}, 1.0),
    "BPP": ("BPP", {}, 0.2),
    "BPP-dither": ("BPP", {"dither": True, "mode": "all-to-all"}, 0.2),
    "BadNets": ("BadNets", {}, 0.2),
    "BadNets-checkerboard": ("BadNets", {"pattern": "checkerboard", "mode": "all-to-all"}, 0.2),
    "Blend": ("Blend", {}, 0.2),
    "Blend-noise": ("Blend", {"pattern": "noise"}, 0.2),
    "CUDA": ("CUDA", {}, 1.0),
    "ClasswiseNoise": ("ClasswiseNoise", {}, 1.0),
    "ClasswiseNoise-uniform": ("ClasswiseNoise", {"kind": "uniform"}, 0.5),
    "ClasswiseNoise-l2": ("ClasswiseNoise", {"kind": "l2", "epsilon": 0.5}, 1.0),
    "ColourShift": ("ColourShift", {}, 1.0),
    "EMClasswise": ("EMClasswise", {**EM, "subset": 1.0}, 1.0),
    "EMClasswise-one-sided": ("EMClasswise", {**EM, "subset": 0.5, "one_sided": True}, 1.0),
    "EMSamplewise": ("EMSamplewise", EM, 1.0),
    "HUDA": ("HUDA", {}, 1.0),
    "HYPO": ("HYPO", PGD, 1.0),
    "LSP": ("LSP", {}, 1.0),
    "Mix": ("Mix", {"poisons": ["lsp", "ar"]}, 1.0),
    "Narcissus": ("Narcissus", {"width": 8, "epochs": 1, "rounds": 5, "lr": 0.05, "batch_size": 8}, 0.2),
    "OPS": ("OPS", {}, 1.0),
    "OPS-3": ("OPS", {"sparsity": 3}, 1.0),
    "PIL": ("PIL", {"epochs": 2, "steps": 3}, 1.0),
    "REM": (
        "REM",
        {
            "on_cpu": True,
            "width": 8,
            "train_steps": 2,
            "pgd_steps": 2,
            "step": 2 / 255,
            "views": 2,
            "inner_steps": 2,
            "batch_size": 20,
        },
        1.0,
    ),
    "SEP": ("SEP", {**PGD, "checkpoints": 1}, 1.0),
    "SEP-features": ("SEP", {**PGD, "checkpoints": 1, "align_features": True}, 1.0),
    "SIG": ("SIG", {}, 0.2),
    "SamplewiseNoise": ("SamplewiseNoise", {}, 1.0),
    "SamplewiseNoise-l2": ("SamplewiseNoise", {"kind": "l2", "epsilon": 0.5}, 1.0),
    "TAP": ("TAP", {**PGD, "restarts": 2}, 1.0),
    "TAP-untargeted": ("TAP", {**PGD, "restarts": 1, "targeted": False}, 1.0),
    "VUDA": ("VUDA", {}, 1.0),
    "WaNet": ("WaNet", {}, 0.2),
}
TARGETED: dict[str, dict[str, Any]] = {
    "BullseyePolytope": {"width": 8, "epochs": 1, "steps": 3},
    "GradientMatching": {"width": 8, "epochs": 1, "steps": 3, "restarts": 2},
}


def stored_poison(name: str, options: dict[str, Any], rate: float) -> str:
    images, labels = synthetic(40, 16)
    found = poisoned(images, labels, make_poison(name, {"num_classes": 4, **options}), rate)
    samples = [found[i] for i in range(len(found))]
    return digest(found.mask, found.targets, torch.stack([x for x, _ in samples]), [int(y) for _, y in samples])


def called_poison(name: str, options: dict[str, Any]) -> str:
    """A batch without index, and as floats, of a poison that needs no fit."""
    images, labels = synthetic(40, 16)
    poison = make_poison(name, {"num_classes": 4, **options})
    return digest(*poison(images, labels), *poison(images / 255, labels))


def targeted_poison(name: str) -> str:
    return digest(*crafted(name, {"num_classes": 4, **TARGETED[name]}, *synthetic(40, 16)))


def poison_cases() -> Iterator[tuple[str, Callable[[], str]]]:
    for title, (name, options, rate) in POISONS.items():
        yield f"poison/{title}/dataset", lambda n=name, o=options, r=rate: stored_poison(n, o, r)
        if not getattr(poisons, name).needs_fit:
            yield f"poison/{title}/call", lambda n=name, o=options: called_poison(n, o)
    for name in TARGETED:
        yield f"poison/{name}/craft", lambda n=name: targeted_poison(n)
    listed = {name for name, *_ in POISONS.values()} | set(TARGETED)
    others = {
        "Backdoor", "Poison", "PoisonRecord", "PoisonedDataset", "TargetedPoison", "TargetedSetup",
    }  # fmt: skip
    for name in sorted(set(poisons.__all__) - listed - others):
        if name[0].isupper():
            yield f"poison/{name}", lambda name=name: f"error: {name} is in no table of this script"


# --- clean --------------------------------------------------------------------------------------------------------


class InMemory(torch.utils.data.Dataset):
    """A map-style dataset of ``(PIL image, target)``."""

    classes = CLASSES

    def __init__(self) -> None:
        self.pictures, self.targets, _ = pictures()
        self.class_to_idx = {name: i for i, name in enumerate(CLASSES)}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return self.pictures[i], self.targets[i]


def folder_source(root: Path) -> Path:
    for i, (_, target, file) in enumerate(zip(*pictures(), strict=True)):
        path = root / CLASSES[target] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file)
    return root


def dataset_source(root: Path) -> InMemory:
    return InMemory()


def hugging_face_source(root: Path) -> Any:
    import datasets

    _, targets, files = pictures()
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    rows = {"img": [{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(files)], "label": targets}
    return datasets.Dataset.from_dict(rows, features=features)


def shard_source(root: Path) -> str:
    root.mkdir()
    _, targets, files = pictures()
    for number, start in enumerate(range(0, len(files), 8)):
        with tarfile.open(root / f"train-{number:03d}.tar", "w") as shard:
            for i in range(start, min(start + 8, len(files))):
                for suffix, data in (("png", files[i]), ("cls", str(targets[i]).encode())):
                    info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                    info.size = len(data)
                    shard.addfile(info, io.BytesIO(data))
    return str(root / "train-{000..002}.tar")


SOURCES = {
    "folder": folder_source,
    "dataset": dataset_source,
    "hugging-face": hugging_face_source,
    "shards": shard_source,
}


def contents(out: Path) -> Iterator[tuple[str, Any]]:
    """Name and pixels of every image that was written; for Parquet the image column, for tar each member."""
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix == ".png":
            yield name, Image.open(path)
        elif path.suffix == ".parquet":
            import pyarrow.parquet as parquet

            for row in parquet.read_table(path).to_pylist():
                yield f"{name} {row['img']['path']} {row['label']}", Image.open(io.BytesIO(row["img"]["bytes"]))
        elif path.suffix == ".tar":
            with tarfile.open(path) as shard:
                for member in shard.getmembers():
                    data = shard.extractfile(member).read()
                    image = Image.open(io.BytesIO(data)) if member.name.endswith(".png") else data
                    yield f"{name} {member.name}", image


def cleaned(kind: str, name: str, options: dict[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source, out = SOURCES[kind](Path(folder, "source")), Path(folder, "out")
        clean(source, out, make_purifier(name, options), progress=False, report=False, workers=1, unit_size=8, seed=5)
        found = list(contents(out))
        if not found:
            raise LookupError(f"no image in the output: {sorted(p.name for p in out.rglob('*'))}")
        return digest(*(part for pair in found for part in pair))


def clean_cases() -> Iterator[tuple[str, Callable[[], str]]]:
    for kind in SOURCES:
        for title, options in (("COINInterpolate", {}), ("JPEGCompress", {})):
            yield f"clean/{kind}/{title}", lambda k=kind, t=title, o=options: cleaned(k, t, o)


# --- the script ---------------------------------------------------------------------------------------------------


def results(only: str = "") -> dict[str, str]:
    found = {}
    for cases in (transform_cases, poison_cases, clean_cases):
        for name, case in cases():
            if not name.startswith(only):
                continue
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002
            try:
                found[name] = case()
            except Exception as error:  # each case stands alone
                found[name] = f"error: {type(error).__name__}: {error}"
            print(name, found[name][:60], file=sys.stderr, flush=True)
    return found


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    lines = [f"{name}: gone" for name in before if name not in now]
    lines += [f"{name}: new" for name in now if name not in before]
    return lines + [f"{n}: {before[n]} -> {now[n]}" for n in now if n in before and before[n] != now[n]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write {name: hash} here")
    parser.add_argument("--compare", type=Path, help="list what differs from this file")
    parser.add_argument("--only", default="", help="cases whose names start so, such as poison/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    now = results(arguments.only)
    if arguments.out:
        arguments.out.write_text(json.dumps(now, indent=1) + "\n")
    before = json.loads(arguments.compare.read_text()) if arguments.compare else now
    lines = differences({name: known for name, known in before.items() if name.startswith(arguments.only)}, now)
    print("\n".join(lines) if lines else f"{len(now)} cases, {sum(v.startswith('error') for v in now.values())} errors")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
