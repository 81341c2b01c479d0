"""TAP made here beside the published TAP set: its size, and what a narrow network learns from each.

The surrogate is a ResNet-18 of width 16 trained for five epochs on the first ``--surrogate-images`` of CIFAR-10 (the
authors: width 64, forty epochs, all), the optimisation takes ``--steps`` steps from one start (the authors: 250 from
eight), and what learns from the sets is a ResNet-18 of width 8. Some twenty minutes on one core. Run it again after a
kill and it goes on: the surrogate, the poison and each finished training are kept in ``--work``.

    python experiments/tap_against_published.py --lossless cifar10_lossless_6k.npz --published tap_5k.npz \
        --cifar10 cifar10.npz --work tap-work --out docs/results/tap-published.json
"""

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from puretransforms.functional.perturbation import magnitude
from puretransforms.models.resnet import ResNet18
from puretransforms.poisons.availability.tap import TAP
from puretransforms.train.classifier import evaluate
from puretransforms.train.settings import CPU_SETTING, ClassifierSetting

VICTIM = ClassifierSetting("narrow-5k", width=8, epochs=12, batch_size=64)


def pixels(array: np.ndarray) -> torch.Tensor:
    """``[N, H, W, 3]`` to ``[N, 3, H, W]``, uint8."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def load(path: Path, *names: str) -> list[torch.Tensor]:
    """Arrays of an archive: images as uint8 ``[N, 3, H, W]``, labels as int64 ``[N]``."""
    with np.load(path) as archive:
        arrays = [archive[name] for name in names]
    return [pixels(a) if a.ndim == 4 else torch.from_numpy(a).long() for a in arrays]


def surrogate_for(work: Path, x: torch.Tensor, y: torch.Tensor) -> ResNet18:
    """The trained surrogate, from ``work`` if it is there."""
    path = work / "surrogate.safetensors"
    if not path.exists():
        model, records = CPU_SETTING.train(x, y, seed=1000)
        for record in records:
            print(record, flush=True)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    model = ResNet18(10, width=CPU_SETTING.width)
    model.load_state_dict(load_file(path))
    return model


def sizes(delta: torch.Tensor) -> dict[str, float]:
    """Of perturbations in pixel units ``[N, 3, H, W]``: means over images, in 1/255 but for L2."""
    levels = (delta * 255).abs()
    return {
        "linf_max": round(levels.max().item(), 4),
        "mean_abs": round(levels.mean().item(), 4),
        "l2_mean": round(magnitude(delta, "l2").mean().item(), 4),
        "share_at_bound": round((levels > 7.5).double().mean().item(), 4),
    }


def main(arguments: list[str] | None = None) -> None:
    """Everything; the result file is written anew after each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lossless", type=Path, required=True)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--cifar10", type=Path, required=True, help="x_train, y_train, x_test, y_test")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, help="the first so many; default: all")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--surrogate-images", type=int, default=15_000)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    x, y, x_test, y_test = load(options.lossless, "x_train", "y_train", "x_test", "y_test")
    (published,) = load(options.published, "x")
    x, y, published = x[: options.images], y[: options.images], published[: options.images]
    full = load(options.cifar10, "x_train", "y_train", "x_test", "y_test")
    surrogate = surrogate_for(options.work, *(data[: options.surrogate_images] for data in full[:2]))

    stored = options.work / "tap.safetensors"
    if not stored.exists():
        TAP(steps=options.steps, restarts=1, width=16).fit((x, y), surrogate=surrogate).save(stored)
    poison = TAP.load(stored)
    ours, _ = poison(x, y, torch.arange(len(x)))
    sets = {"clean": x, "published TAP": published, "TAP made here": ours}
    aim = (y + 1) % 10
    result = {
        "date": date.today().isoformat(),
        "images": len(x),
        "surrogate": {
            "images": options.surrogate_images,
            **CPU_SETTING.describe(),
            "test_accuracy": round(evaluate(surrogate, *full[2:]), 4),
        },
        "tap": poison.arguments,
        "victim": VICTIM.describe(),
        "sizes": {name: sizes((data.float() - x.float()) / 255) for name, data in sets.items() if data is not x},
        "surrogate_takes_it_for_the_next_class": {
            name: round(evaluate(surrogate, data, aim), 4) for name, data in sets.items()
        },
        "trainings": [],
    }
    log = options.work / "trainings.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for seed in range(options.seeds):
        for name, data in sets.items():
            row = next((r for r in done if (r["trained_on"], r["seed"]) == (name, seed)), None)
            if row is None:
                model, records = VICTIM.train(data, y, seed=seed)
                tests = (x_test, y_test), (full[2][:2000], full[3][:2000])
                curve = [[evaluate(model, *test) for test in tests] for _ in records]
                row = {
                    "trained_on": name,
                    "seed": seed,
                    "lossless_test": round(curve[-1][0], 4),
                    "lossless_test_peak": round(max(c[0] for c in curve), 4),
                    "jpeg_test": round(evaluate(model, *full[2:]), 4),
                    "jpeg_test_peak_2000": round(max(c[1] for c in curve), 4),
                }
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            result["trainings"].append(row)
            print(row, flush=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
