"""Gradient Matching on setups of the poisoning benchmark, in small: success, and the target's probability without it.

The setups are the first whose targets are at hand with their official indices (``idx_test`` of ``--lossless``). The
training set is a share of CIFAR-10 that holds the 500 base images of every setup (the benchmark poisons 500 of all
50,000: 1 %; here they are a larger share), the networks are ResNet-18 of width 8 trained for sixteen epochs. One
surrogate crafts all poisons and one clean network is what they are compared with; each poisoned network is trained from
scratch, with the clean one's seed, once on the poisoned set and once on its JPEG-10. A setup succeeds if its one target
is classified as the base class. Run it again after a kill and it goes on.

    python experiments/gradient_matching.py --setups poisoning_benchmark_setups.json \
        --lossless cifar10_lossless_6k.npz --cifar10 cifar10.npz --work gm-work \
        --out docs/results/gradient-matching.json
"""

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from puretransforms.models.resnet import ResNet18
from puretransforms.poisons.targeted.base import TargetedSetup
from puretransforms.poisons.targeted.gradient_matching import GradientMatching
from puretransforms.train.classifier import evaluate
from puretransforms.train.settings import ClassifierSetting
from puretransforms.transforms.baselines import JPEGCompress

NARROW = ClassifierSetting("narrow-8k", width=8, epochs=16)


def trained(work: Path, name: str, x: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Module:
    """A network trained on ``x``, ``y``, from ``work`` if it is there."""
    path = work / f"{name}.safetensors"
    if not path.exists():
        model, records = NARROW.train(x, y, seed=seed)
        for record in records:
            print(name, record, flush=True)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    model = ResNet18(10, width=NARROW.width)
    model.load_state_dict(load_file(path))
    return model.eval()


@torch.no_grad()
def verdict(model: nn.Module, setup: TargetedSetup) -> dict[str, float | int]:
    """What a network says of the target."""
    p = model(setup.target[None].float() / 255).softmax(1)[0]
    return {
        "predicted": int(p.argmax()),
        "p_base": round(p[setup.base_class].item(), 4),
        "p_true": round(p[setup.target_class].item(), 4),
    }


def main(arguments: list[str] | None = None) -> None:
    """Everything; the result file is written anew after each setup."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setups", type=Path, required=True)
    parser.add_argument("--lossless", type=Path, required=True, help="x_test, y_test, idx_test")
    parser.add_argument("--cifar10", type=Path, required=True, help="x_train, y_train, x_test, y_test")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5, help="the first so many from-scratch setups")
    parser.add_argument("--images", type=int, default=8_000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--epsilon", type=float, default=16, help="in 8-bit levels")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    with np.load(options.lossless) as archive:
        targets = {
            int(index): (torch.from_numpy(image).permute(2, 0, 1), int(label))
            for index, image, label in zip(archive["idx_test"], archive["x_test"], archive["y_test"], strict=True)
        }
    setups = json.loads(options.setups.read_text())["cifar10_from_scratch"]
    numbers = [n for n, setup in enumerate(setups) if setup["target_index"] in targets][: options.count]
    with np.load(options.cifar10) as archive:
        x, x_test = (torch.from_numpy(archive[k]).permute(0, 3, 1, 2).contiguous() for k in ("x_train", "x_test"))
        y, y_test = (torch.from_numpy(archive[k]).long() for k in ("y_train", "y_test"))

    bases = np.unique(np.concatenate([setups[n]["base_indices"] for n in numbers]))
    others = np.setdiff1d(np.arange(len(x)), bases)
    others = np.random.RandomState(0).permutation(others)[: options.images - len(bases)]
    kept = np.sort(np.concatenate([bases, others]))
    place = {int(old): new for new, old in enumerate(kept)}
    x, y = x[kept], y[kept]
    surrogate = trained(options.work, "surrogate", x, y, seed=1000)
    clean = trained(options.work, "clean", x, y, seed=0)
    attack = GradientMatching(
        epsilon=options.epsilon / 255, steps=options.steps, restarts=options.restarts, width=NARROW.width
    )
    result = {
        "date": date.today().isoformat(),
        "images": len(x),
        "share_poisoned": 500 / len(x),
        "network": NARROW.describe(),
        "epsilon_levels": options.epsilon,
        "steps": options.steps,
        "restarts": options.restarts,
        "surrogate_test_accuracy": round(evaluate(surrogate, x_test, y_test), 4),
        "clean_test_accuracy": round(evaluate(clean, x_test, y_test), 4),
        "setups": [],
    }
    for number in numbers:
        entry = setups[number]
        where = torch.tensor([place[index] for index in entry["base_indices"]])
        target, label = targets[entry["target_index"]]
        if label != entry["target_class"]:
            raise SystemExit(f"expected a target of class {entry['target_class']} in setup {number}, got {label}.")
        setup = TargetedSetup(target, entry["target_class"], entry["base_class"], where)
        path = options.work / f"poison-{number}.safetensors"
        if not path.exists():
            attack.fit((x, y), setup=setup, surrogate=surrogate).save(path)
        poison = GradientMatching.load(path)
        poisoned, _ = poison(x, y, torch.arange(len(x)))
        victim = trained(options.work, f"victim-{number}", poisoned, y, seed=0)
        defended = trained(options.work, f"defended-{number}", JPEGCompress(quality=10)(poisoned), y, seed=0)
        row = {
            "setup": number,
            "target_class": entry["target_class"],
            "base_class": entry["base_class"],
            "matching_loss": round(poison.loss, 4),
            "surrogate": verdict(surrogate, setup),
            "clean": verdict(clean, setup),
            "poisoned": verdict(victim, setup),
            "jpeg10": verdict(defended, setup),
            "poisoned_test_accuracy": round(evaluate(victim, x_test, y_test), 4),
        }
        row["success"] = row["poisoned"]["predicted"] == entry["base_class"]
        row["success_jpeg10"] = row["jpeg10"]["predicted"] == entry["base_class"]
        print(row, flush=True)
        result["setups"].append(row)
        for name in ("success", "success_jpeg10"):
            result[name] = sum(row[name] for row in result["setups"])
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
