"""What a poison of the benchmark's CPU preset does when the network is trained longer than the preset does.

The preset trains a narrow network for eight epochs on 10,000 images, so a poison that is learned slowly looks weak. One
line of JSON a run, with the accuracy after each epoch. Three minutes a run on one core for 24 epochs.

    python benchmarks/longer_training.py --npz cifar10.npz --poison ar --epochs 24 \
        --out docs/results/longer-training.jsonl
"""

import argparse
import json
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch

from puretransforms.benchmark.cases import PRESETS, Case
from puretransforms.benchmark.run import Bench
from puretransforms.benchmark.sources import load_data, part_of
from puretransforms.benchmark.store import Store


def main(arguments: list[str] | None = None) -> None:
    """One run, appended to ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, required=True)
    parser.add_argument("--poison", required=True)
    parser.add_argument("--purifier", default="none")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    preset = PRESETS["cpu"]
    train, test = load_data(options.npz)
    bench = Bench(part_of(train, preset.train_size), part_of(test, preset.test_size), store=Store(options.cache))
    setting = replace(preset.setting, epochs=options.epochs)
    result = bench.run(Case(options.poison, options.purifier, setting.name, options.seed), setting)
    line = {**asdict(result), "about": {"setting": setting.describe(), "date": date.today().isoformat()}}
    with options.out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{options.poison} / {options.purifier}, {options.epochs} epochs: {result.test[-1]:.1%}")


if __name__ == "__main__":
    main()
