"""How far bfloat16 layers lead ``EBMPurify()`` from its float32 path, at several sizes of batch.

    python experiments/ebm_bfloat16.py IMAGES.npz --out docs/results/ebm-bfloat16.json

The distance of the last states over the length of the float32 path, both chains with the same noise.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from measured import cpu_name, write_json

from puretransforms.transforms.ebm import EBMPurify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="npz with uint8 x_test [N, 32, 32, 3]")
    parser.add_argument("--batches", type=int, nargs="+", default=[32])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pixels = torch.from_numpy(np.load(args.images)["x_test"][: max(args.batches)]).permute(0, 3, 1, 2) / 255
    chains = {precision: EBMPurify(seed=0, precision=precision) for precision in ("bf16", "fp32")}
    distances = {}
    for batch in args.batches:
        x = pixels[:batch]
        half, full = (chain(x) for chain in chains.values())
        distances[str(batch)] = round(float((half - full).norm() / (full - x).norm()), 5)
    about = {"cpu": cpu_name(), "torch": torch.__version__, "steps": chains["fp32"].steps}
    write_json(about | {"distance_over_path": distances}, args.out)


if __name__ == "__main__":
    main()
