"""The same real images as a folder, a torchvision data set, a Hugging Face data set and WebDataset shards.

All four are cleaned with COIN. The purified pixels must be identical, and so must the manifests but for names and
places (``path``, ``out``, ``member``); the rows that describe the containers themselves are left out. Prints one JSON
object; the exit status is 1 if anything differs.

    python experiments/four_sources.py path/to/cifar10_lossless.npz --images 5000

The archive holds ``x_train`` (uint8 ``[N, H, W, 3]``) and ``y_train``.
"""

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder, VisionDataset

from puretransforms.cleaning.clean import clean
from puretransforms.transforms.coin import COINInterpolate

WHEREABOUTS = ("path", "out", "member")
SIZE = 1000  # of a unit, and of a shard


class Tensors(VisionDataset):
    """Pixels and targets in memory, as torchvision holds CIFAR-10."""

    def __init__(self, data: np.ndarray, targets: list[int], classes: list[str]) -> None:
        super().__init__("memory")
        self.data, self.targets, self.classes = data, targets, classes

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[i]), self.targets[i]

    def __len__(self) -> int:
        return len(self.data)


def png(pixels: np.ndarray) -> bytes:
    """The image in a file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def write_sources(place: Path, files: list[bytes], targets: list[int]) -> None:
    """A folder and shards."""
    (place / "shards").mkdir()
    for start in range(0, len(files), SIZE):
        with tarfile.open(place / "shards" / f"{start // SIZE:03d}.tar", "w") as shard:
            for i in range(start, min(start + SIZE, len(files))):
                for suffix, data in (("png", files[i]), ("cls", str(targets[i]).encode())):
                    info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    info.size = len(data)
                    shard.addfile(info, io.BytesIO(data))
                path = place / "folder" / str(targets[i]) / f"{i:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files[i])


def rows(result) -> list[dict]:
    """The manifest without names and places."""
    with result.manifest.open() as lines:
        every = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in WHEREABOUTS} for row in every if row["status"] == "purified"]


def pixels(loaded) -> str:
    """One sha256 over all purified pixels in order."""
    total = hashlib.sha256()
    if isinstance(loaded, list):
        for path in loaded:
            with tarfile.open(path) as shard:
                for member in shard:
                    if member.name.endswith(".png"):
                        total.update(np.asarray(Image.open(shard.extractfile(member))).tobytes())
    elif isinstance(loaded, datasets.Dataset):
        for image in loaded["image"]:
            total.update(np.asarray(image).tobytes())
    else:
        for i in range(len(loaded)):
            total.update(np.asarray(loaded[i][0]).tobytes())
    return total.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--out", type=Path, help="folder to work in (default: a temporary one)")
    args = parser.parse_args()
    with np.load(args.archive) as archive:
        order = np.argsort(archive["y_train"][: args.images], kind="stable")  # as a folder lists them
        data, targets = archive["x_train"][order], archive["y_train"][order].tolist()
    classes = [str(i) for i in range(10)]
    files = [png(image) for image in data]
    place = Path(tempfile.mkdtemp(prefix="four-sources-", dir=args.out))
    try:
        write_sources(place, files, targets)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
        images = [{"bytes": file, "path": None} for file in files]
        table = datasets.Dataset.from_dict({"image": images, "label": targets}, features=features)
        sources = {
            "folder": str(place / "folder"),
            "torchvision": Tensors(data, targets, classes),
            "hugging face": table,
            "webdataset": str(place / "shards" / "{000..%03d}.tar") % ((len(files) - 1) // SIZE),
        }
        (place / "out").mkdir()
        measured, manifests = {}, []
        for name, source in sources.items():
            start = time.perf_counter()
            result = clean(source, place / "out" / name, COINInterpolate(), unit_size=SIZE, progress=False)
            seconds = time.perf_counter() - start
            result.verify()
            manifests.append(rows(result))
            loaded = ImageFolder(result.out) if name == "folder" else result.load()
            digest = hashlib.sha256(json.dumps(manifests[-1]).encode()).hexdigest()
            measured[name] = {"pixels_sha256": pixels(loaded), "rows_sha256": digest, "rows": len(manifests[-1])}
            measured[name]["images_per_second"] = round(len(files) / seconds)
    finally:
        shutil.rmtree(place)
    original = hashlib.sha256(data.tobytes()).hexdigest()
    same = {key: len({some[key] for some in measured.values()}) == 1 for key in ("pixels_sha256", "rows_sha256")}
    changed = measured["folder"]["pixels_sha256"] != original
    print(json.dumps({"images": len(files), "sources": measured, "identical": same, "purified": changed}, indent=1))
    return 0 if all(same.values()) and changed and len(files) == args.images else 1


if __name__ == "__main__":
    sys.exit(main())
