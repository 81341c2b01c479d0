"""D-VAE fitted to a poisoned part of CIFAR-10: what it learns of a known perturbation, and the accuracy won back.

For each poison the two stages are fitted by ``--schedule`` and, with ``--published-table``, the first one again with
the class table as published (drawn from N(0, 1), at the learning rate of the other weights) and all else the same.
After each epoch: rate, PSNR of the reconstruction, and beside the true perturbation ``d = poisoned - clean`` of 500
images the predicted one ``p`` (of both stages together in the second): mean cosine, recovered share ``<p, d> / <d, d>``
and root mean square. Then the share of ``d`` left and the PSNR to the clean image in what purifiers give; and the
accuracy on clean test images of a classifier trained on none / JPEG-10 / D-VAE, the last epoch of each seed.

    python experiments/vae_fit.py --data cifar10.npz --work WORK --out docs/results/vae-fit.json

takes about half an hour on one core. The same command goes on where it was stopped: WORK keeps checkpoints, and the
result file is written as results come. On a GPU the paper's setting is

    python experiments/vae_fit.py --data cifar10.npz --work WORK --out OUT.json --device cuda --images 50000
        --poisons lsp,ops,em_samplewise,ar --schedule published --width 64 --latent 256
        --classifier-width 64 --classifier-epochs 30
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import torch
from safetensors.torch import load_file, save_file

from puretransforms.benchmark.attacks import CLEAN, find_attack
from puretransforms.benchmark.sources import load_data, part_of
from puretransforms.data.samples import LabelledImages
from puretransforms.functional.devices import working_dtype
from puretransforms.models.dvae import DVAE
from puretransforms.train.classifier import evaluate
from puretransforms.train.rate import SCHEDULES, FitRecord, fit_stage
from puretransforms.train.settings import ClassifierSetting
from puretransforms.transforms.baselines import JPEGCompress
from puretransforms.transforms.vae import VAEPurify

PROBE = 500  # images on which prediction and truth are compared
FIT = ("schedule", "num_classes", "seed", "device", "compiled")  # the others are arguments of the constructor
SAVE_EVERY = 100  # updates
Images = torch.Tensor


class Results:
    """The result file: written whole after every entry, read again by the next run."""

    def __init__(self, path: Path, settings: dict) -> None:
        self.path, self.content = path, settings | {"curves": {}, "fidelity": {}, "accuracy": {}}
        if path.exists():
            found = json.loads(path.read_text())
            changed = [name for name in ("data", "fit", "classifier") if found[name] != settings[name]]
            if changed:
                raise SystemExit(f"{path} holds results of other settings ({', '.join(changed)}): name another file.")
            self.content = found | settings

    def __getitem__(self, name: str) -> dict:
        return self.content[name]

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(self.content, indent=1) + "\n")
        temporary.replace(self.path)


class Probe:
    """Called after every update; after each epoch it compares prediction and truth, and notes it under ``name``."""

    def __init__(self, results: Results, name: str, clean: Images, poisoned: Images, labels: Images, options: dict):
        self.results, self.name = results, name
        self.x, self.labels = poisoned[:PROBE], labels[:PROBE]
        self.d = ((poisoned[:PROBE].float() - clean[:PROBE].float()) / 255).flatten(1)
        self.batches = len(poisoned) // options["schedule"].batch_size
        self.twin = VAEPurify(weights=None, **{k: v for k, v in options.items() if k not in ("schedule", "compiled")})
        self.distortion: list[float] = []
        self.start: float | None = None

    def __call__(self, record: FitRecord) -> None:
        self.distortion.append(record.reconstruction)
        if self.start is None:
            self.start = time.process_time()
        if record.step % self.batches:
            return
        seconds, curve = time.process_time() - self.start, self.results["curves"].setdefault(self.name, [])
        curve[:] = [row for row in curve if (row["stage"], row["epoch"]) < (record.stage + 1, record.epoch + 1)]
        row = {"stage": record.stage + 1, "epoch": record.epoch + 1, "rate": round(record.rate, 3)}
        row["psnr"] = round(-10 * math.log10(mean(self.distortion[-self.batches :])), 2)
        row |= self.compared(self.predicted(record))
        row["cpu_seconds"] = round(seconds, 1)
        curve.append(row)
        self.results.write()
        print(self.name, row, flush=True)
        self.start = time.process_time()

    def predicted(self, record: FitRecord) -> Images:
        """Of the stages so far, in all."""
        state = record.state()
        parts = {
            head: {n[len(head) :]: t for n, t in state.items() if n.startswith(head)} for head in ("net.", "first.")
        }
        self.twin.net.load_state_dict(parts["net."])
        if record.stage:
            self.twin.first.load_state_dict(parts["first."])
            return self.twin.perturbation(self.x, self.labels).flatten(1)
        net = self.twin.net.eval()
        x = self.x.float() / 255
        with torch.no_grad():
            return torch.cat([net.perturbation(x[i], self.labels[i]) for i in torch.arange(PROBE).split(100)]).flatten(
                1
            )

    def compared(self, p: Images) -> dict:
        return {
            "cosine": round(float(torch.cosine_similarity(p, self.d).mean()), 4),
            "recovered": round(float((p * self.d).sum() / self.d.square().sum()), 4),
            "rms_of_255": round(float(p.square().mean().sqrt()) * 255, 2),
        }


def saved(records: Callable[..., Iterator[FitRecord]], file: Path) -> Iterator[FitRecord]:
    """The records of a fit that goes on from ``file`` and saves itself there."""
    for record in records(state=load_file(file) if file.exists() else None):
        if record.step % SAVE_EVERY == 0 or record.step == record.updates:
            temporary = file.with_name(file.name + ".tmp")
            save_file(record.state(), temporary)
            temporary.replace(file)
        yield record


def fit_published_table(poisoned: Images, labels: Images, options: dict, file: Path, probe: Probe) -> None:
    """The first stage with the table as published, all else as in ``options``."""
    schedule = replace(options["schedule"], table_std=1.0, table_lr=options["schedule"].lr)
    torch.manual_seed(0)
    net = DVAE(options["num_classes"], options["width"], options["latent"], size=options["size"])
    records = partial(
        fit_stage,
        net.to(options["device"]),
        poisoned,
        labels,
        rate_limit=schedule.rate_limits[0],
        schedule=schedule,
        precision=working_dtype("auto", options["device"] or "cpu"),
        compiled=options["compiled"],
    )
    for record in saved(records, file):
        probe(record)


def fidelity(purified: dict[str, Images], clean: Images, poisoned: Images) -> dict:
    """PSNR to the clean images, and the share of the perturbation left."""
    d = (poisoned.double() - clean.double()) / 255
    rows = {}
    for name, images in purified.items():
        error = (images.double() - clean.double()) / 255
        left = float((error * d).sum() / d.square().sum())
        rows[name] = {"psnr": round(-10 * math.log10(float(error.square().mean())), 2), "left": round(left, 4)}
    return rows


def in_parts(transform: Callable[[Images], Images], images: Images) -> Images:
    return torch.cat([transform(part) for part in images.split(1000)])


def purify_all(purifier: VAEPurify, images: Images, labels: Images) -> Images:
    parts = zip(images.split(1000), labels.split(1000), strict=True)
    return torch.cat([purifier(x, y)[0] for x, y in parts])


def subtracted(purifier: VAEPurify, images: Images, labels: Images) -> Images:
    """Both perturbations subtracted, nothing reconstructed."""
    return (images / 255 - purifier.perturbation(images, labels)).clamp(0, 1).mul(255).round().to(torch.uint8)


def train_all(
    results: Results, versions: dict[str, dict[str, Images]], labels: Images, test: LabelledImages, seeds: range, args
) -> None:
    """One classifier for each poison, version and seed that the result file does not hold yet, seed by seed."""
    setting = ClassifierSetting("narrow", width=args.classifier_width, epochs=args.classifier_epochs)
    every = [(poison, purifier) for poison, purified in versions.items() for purifier in purified]
    for seed, (poison, purifier) in product(seeds, every):
        row = results["accuracy"].setdefault(poison, {}).setdefault(purifier, {"by_seed": {}})
        if str(seed) in row["by_seed"]:
            continue
        model, records = setting.train(
            versions[poison][purifier], labels, num_classes=int(labels.max()) + 1, seed=seed, device=args.device
        )
        for _ in records:
            pass
        accuracy = 100 * evaluate(model, test.images, test.targets, device=args.device)
        row["by_seed"][str(seed)] = round(accuracy, 2)
        found = list(row["by_seed"].values())
        row |= {"mean": round(mean(found), 2), "std": round(stdev(found), 2) if len(found) > 1 else None}
        results.write()
        print(poison, purifier, seed, f"{accuracy:.2f} %", flush=True)


def purified(
    results: Results, poison: str, train: LabelledImages, test: LabelledImages, args
) -> tuple[dict[str, Images], Callable[[], object]]:
    """What classifiers are trained on, and the second fit, to be called later."""
    classes, labels = int(train.targets.max()) + 1, train.targets
    poisoned = find_attack(poison).run(train, test, classes).images
    versions = {"none": poisoned, "jpeg10": in_parts(JPEGCompress(10), poisoned)}
    if poison == CLEAN:
        return versions, lambda: None
    schedule = SCHEDULES[args.schedule]
    options = {
        "schedule": schedule if args.epochs is None else replace(schedule, epochs=args.epochs),
        "width": args.width,
        "latent": args.latent,
        "num_classes": classes,
        "device": args.device,
        "compiled": args.compiled,
    }
    size = {"size": train.images.shape[-1]}
    made = partial(Probe, results, clean=train.images, poisoned=poisoned, labels=labels, options=options | size)
    file, probe = args.work / f"{poison}.safetensors", made(f"{poison}, {args.schedule}")
    own = {name: value for name, value in options.items() if name in FIT}
    purifier = VAEPurify(weights=None, **{name: value for name, value in options.items() if name not in FIT})
    purifier.fit((poisoned, labels), **own, checkpoint=file, save_every=SAVE_EVERY, on_record=probe)
    versions["vae"] = purify_all(purifier, poisoned, labels)
    few = slice(0, 2 * PROBE)
    shown = {name: images[few] for name, images in versions.items()}
    shown["vae, perturbations subtracted only"] = subtracted(purifier, poisoned[few], labels[few])
    shown["vae, without labels"] = in_parts(purifier, poisoned[few])
    results["fidelity"][poison] = fidelity(shown, train.images[few], poisoned[few])
    results.write()
    print(poison, results["fidelity"][poison], flush=True)
    table = file.with_name(f"{poison}-published-table.safetensors")
    later = made(f"{poison}, {args.schedule}, table as published")
    return versions, partial(fit_published_table, poisoned, labels, options | size, table, later)


def command(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """The call, without the places of files."""
    given = {n: v for n, v in vars(args).items() if v != parser.get_default(n) and n not in ("data", "work", "out")}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return " ".join(["python experiments/vae_fit.py --data cifar10.npz --work WORK --out OUT.json", *words])


def settings_of(args: argparse.Namespace, names: Iterable[str]) -> dict:
    return {name: getattr(args, name) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--poisons", default="lsp,classwise,clean")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="short")
    parser.add_argument("--epochs", type=int, help="of each stage, other than those of the schedule")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--published-table", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--classifier-width", type=int, default=8)
    parser.add_argument("--classifier-epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    train, test = load_data(args.data)
    train = part_of(train, args.images)
    settings = {
        "command": command(parser, args),
        "date": date.today().isoformat(),
        "hardware": f"{platform.machine()}, {args.threads} thread(s), device {args.device}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "data": {"train": len(train), "test": len(test)},
        "fit": settings_of(args, ("schedule", "epochs", "width", "latent")) | vars(SCHEDULES[args.schedule]),
        "classifier": {"network": "ResNet18", "width": args.classifier_width, "epochs": args.classifier_epochs},
    }
    settings["fit"] |= {"epochs": args.epochs or SCHEDULES[args.schedule].epochs}
    settings = json.loads(json.dumps(settings))
    results = Results(args.out, settings)
    made = {poison: purified(results, poison, train, test, args) for poison in args.poisons.split(",")}
    versions = {poison: versions for poison, (versions, _) in made.items()}
    train_all(results, versions, train.targets, test, range(1), args)
    if args.published_table:
        for _, fit in made.values():
            fit()
    train_all(results, versions, train.targets, test, range(args.seeds), args)


if __name__ == "__main__":
    main()
