"""The fixed whitening filters of ``AirbenchNet``: second moments of the 2x2 patches of natural images, computed once.

The result is ``puretransforms/models/whitening_2x2.json``. The images must not be those on which a victim is trained:
filters that are fitted to a poisoned set magnify the poison. 23,000 CIFAR-100 images take some ten seconds.

    python -m experiments.whitening_statistics cifar100.npz
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import unfold

OUT = Path(__file__).parents[1] / "puretransforms" / "models" / "whitening_2x2.json"
EPS = 5e-4  # added to the eigenvalues, as in airbench


def statistics(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """``mean, std, eigenvalues, filters [12, 3, 2, 2]`` of uint8 images ``[N, 3, H, W]``, all in float64."""
    x = images.double() / 255
    mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3))
    second, count = torch.zeros(12, 12, dtype=torch.float64), 0
    for batch in x.split(1000):
        patches = unfold((batch - mean[:, None, None]) / std[:, None, None], 2).permute(0, 2, 1).reshape(-1, 12)
        second += patches.T @ patches
        count += len(patches)
    eigenvalues, eigenvectors = torch.linalg.eigh(second / count)
    return mean, std, eigenvalues, (eigenvectors / (eigenvalues + EPS).sqrt()).T.reshape(12, 3, 2, 2)


def main(archive: str) -> None:
    images = torch.from_numpy(np.load(archive)["x"]).permute(0, 3, 1, 2)
    mean, std, eigenvalues, filters = statistics(images)
    count = len(images) * (images.shape[2] - 1) * (images.shape[3] - 1)
    record = {
        "source": f"{len(images)} CIFAR-100 training images, original pixels; {count} patches",
        "eps": EPS,
        "mean": [round(value, 6) for value in mean.tolist()],
        "std": [round(value, 6) for value in std.tolist()],
        "eigenvalues": [float(f"{value:.6g}") for value in eigenvalues],
        "filters": [[float(f"{value:.7g}") for value in row] for row in filters.flatten(1)],
    }
    rows = ",\n  ".join(json.dumps(row) for row in record.pop("filters"))
    OUT.write_text(json.dumps(record, indent=1)[:-2] + f',\n "filters": [\n  {rows}\n ]\n}}\n')


if __name__ == "__main__":
    if len(sys.argv) != 2 or "--help" in sys.argv:
        print(__doc__)
        sys.exit(0 if "--help" in sys.argv else 2)
    main(*sys.argv[1:])
