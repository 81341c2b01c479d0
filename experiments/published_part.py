"""The part of a dataset that a published poisoned set covers, as data for the benchmark.

A poison that covers a tenth of the training images does nothing to a victim, so such a set says something only if the
victim is trained on that part alone, and is compared to clean data of the same part. Writes two files into a folder:

    python experiments/published_part.py cifar10.npz tap.npz part
    puretransforms bench --preset quarter --epochs 80 --data part/clean.npz --out bench \
        --poisons published:path=part/published.npz --purifiers none,jpeg:quality=10

``clean.npz`` holds the covered training images and all test images, ``published.npz`` the poisoned ones in their order.
With a tenth of the images, ten times the epochs are as many steps.
"""

import sys
from pathlib import Path

import numpy as np

from puretransforms.benchmark.attacks import read_published
from puretransforms.benchmark.sources import load_data


def main(data: str, published: str, out: str) -> None:
    train, test = load_data(data)
    attacked = read_published(published, train)
    rows, y = attacked.mask, train.targets[attacked.mask].numpy()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    x_train, x_test, x = (
        part.permute(0, 2, 3, 1).numpy() for part in (train.images[rows], test.images, attacked.images[rows])
    )
    np.savez(folder / "clean.npz", x_train=x_train, y_train=y, x_test=x_test, y_test=test.targets.numpy())
    np.savez(folder / "published.npz", x=x, y=y)
    print(f"{len(y)} of {len(train)} training images in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 4 or "--help" in sys.argv:
        print(__doc__)
        sys.exit(0 if "--help" in sys.argv else 2)
    main(*sys.argv[1:])
