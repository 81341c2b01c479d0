"""The command line: ``puretransforms scan | clean | verify | poison | bench | weights | demo``, a library call each."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..data.named import named
from ..errors import PureTransformsError
from ..poisons.availability.autoregressive import AR
from ..poisons.availability.convolution import CUDA, HUDA, VUDA
from ..poisons.availability.em import EMClasswise, EMSamplewise
from ..poisons.availability.lsp import LSP
from ..poisons.availability.noise import ClasswiseNoise, SamplewiseNoise
from ..poisons.availability.ops import OPS
from ..poisons.availability.rem import REM
from ..poisons.availability.sep import SEP
from ..poisons.availability.tap import HYPO, TAP
from ..poisons.backdoor.badnets import BadNets
from ..poisons.backdoor.blend import Blend
from ..poisons.backdoor.bpp import BPP
from ..poisons.backdoor.narcissus import Narcissus
from ..poisons.backdoor.sig import SIG
from ..poisons.backdoor.wanet import WaNet
from ..poisons.base import Poison
from ..transforms.base import PureTransform
from ..transforms.baselines import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur
from ..transforms.coin import COINInterpolate
from .weights import app as weights

PURIFIERS: dict[str, type[PureTransform]] = {
    "bits": BitDepthReduce,
    "coin": COINInterpolate,
    "gaussian": GaussianBlur,
    "gray": Grayscale,
    "jpeg": JPEGCompress,
    "median": MedianBlur,
}
POISONS: dict[str, type[Poison]] = {
    "ar": AR,
    "badnets": BadNets,
    "blend": Blend,
    "bpp": BPP,
    "classwise": ClasswiseNoise,
    "cuda": CUDA,
    "em_classwise": EMClasswise,
    "em_samplewise": EMSamplewise,
    "huda": HUDA,
    "hypo": HYPO,
    "lsp": LSP,
    "narcissus": Narcissus,
    "ops": OPS,
    "rem": REM,
    "samplewise": SamplewiseNoise,
    "sep": SEP,
    "sig": SIG,
    "tap": TAP,
    "vuda": VUDA,
    "wanet": WaNet,
}

AUTO = "auto"  # scan, then purify as advised

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Purify poisoned image data before training.")
app.add_typer(weights, name="weights")
screen = Console(stderr=True)

Options = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An argument of the transform, as often as needed."),
]


@app.command()
def scan(
    source: Annotated[str, typer.Argument(help="Folder of images, one folder per class, or tar shards.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for scan.html (pictures), suspects.csv and scan.json.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Images to draw at random; 0 looks at all.", min=0)] = 5000,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Threads that decode; default: one per core.")] = None,
    vae: Annotated[str | None, typer.Option(help="Folder of a VAEPurify that was fitted to these images.")] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with status 2 if a detector raises an alarm.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Is this data set poisoned, how, and what cures it? Nothing is changed."""
    from ..scanning.scan import scan as run
    from ..transforms.vae import VAEPurify

    def work() -> tuple[bool, str]:
        fitted = None if vae is None else VAEPurify.from_pretrained(vae)
        result = run(source, sample=sample or None, seed=seed, workers=workers, progress=progress, vae=fitted)
        where = "" if out is None else f"\n\nreport in {result.save(out)}, suspects in {out / 'suspects.csv'}"
        return bool(result.verdict.alarms), f"{result}{where}"

    alarm, text = _reported(work)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    if fail and alarm:
        raise typer.Exit(2)


@app.command()
def clean(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images or its URL; tar shards, as 'shards/{000..099}.tar'; hf:NAME#SPLIT; "
            "torchvision:CLASS:ROOT#SPLIT."
        ),
    ],
    out: Annotated[str, typer.Argument(help="New folder, or URL, for the purified images.")],
    purifier: Annotated[str, typer.Option("--with", help=f"One of {', '.join(PURIFIERS)}; or {AUTO}: scan first.")],
    options: Options = None,
    batch_size: int = 256,
    workers: Annotated[int | None, typer.Option(help="Codec processes; default: one per core.")] = None,
    unit_size: Annotated[int, typer.Option(help="Files per unit of work, what a kill can cost.")] = 1000,
    seed: int = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: cpu.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first corrupt image.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; count, time a sample, estimate.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    suspects: Annotated[Path | None, typer.Option(help="CSV file for all images, the most changed first.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for a Ray cluster.")] = "local",
    actors: Annotated[int | None, typer.Option(help="Of Ray; default: one per core, or per GPU.")] = None,
    image_key: Annotated[str | None, typer.Option(help="Image column, or extension in shards.")] = None,
    label_key: Annotated[str | None, typer.Option(help="Class column, or extension in shards.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Purify every image below SOURCE into OUT; run it again after a kill and it goes on where it stopped."""
    from ..cleaning.clean import clean as run

    if purifier == AUTO and options:
        raise typer.BadParameter(f"expected none with {AUTO}: the scan chooses the settings.", param_hint="--set")
    transform = AUTO if purifier == AUTO else _build(purifier, PURIFIERS, options)
    if dry_run and suspects:
        raise typer.BadParameter("expected none with --dry-run, which purifies nothing.", param_hint="--suspects")

    def work() -> Any:
        result = run(
            named(source),
            out,
            transform,
            batch_size=batch_size,
            workers=workers,
            unit_size=unit_size,
            seed=seed,
            device=device,
            strict=strict,
            dry_run=dry_run,
            report=report,
            engine=engine,
            actors=actors,
            image_key=image_key,
            label_key=label_key,
            progress=progress,
        )
        if suspects and result.complete:
            result.suspects(suspects)
        elif suspects:
            screen.print("no suspects yet: units of other ranks are open; whichever process comes last writes them")
        return result

    Console().print(_reported(work), soft_wrap=True)


@app.command()
def verify(out: Annotated[str, typer.Argument(help="A folder or URL that clean has finished.")]) -> None:
    """Read every file of OUT again and compare it with the manifest; exit status 1 if anything differs."""
    from ..cleaning.verify import verify as run

    Console().print(_reported(lambda: run(out)), soft_wrap=True)


@app.command()
def poison(
    source: Annotated[Path, typer.Argument(help="Folder of images, one folder per class.")],
    out: Annotated[Path, typer.Argument(help="New folder for the poisoned images (PNG) and poison.json.")],
    name: Annotated[str, typer.Option("--with", help=f"One of {', '.join(POISONS)}.")],
    options: Options = None,
    rate: Annotated[
        float | None, typer.Option(help="Share of the images to poison; default: that of the poison.")
    ] = None,
    seed: int = 0,
    workers: int = 2,
    device: Annotated[str | None, typer.Option(help="To craft on: cpu, cuda, cuda:1, ...; default: cpu.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar while a poison is crafted.")] = True,
) -> None:
    """Poison a folder of images, for tests and benchmarks: lossless files, labels and mask recorded."""
    from torchvision.datasets import ImageFolder

    from ..poisons.dataset import PoisonedDataset
    from ..poisons.export import check_target

    def run() -> Path:
        dataset = ImageFolder(str(source))
        chosen = _build(name, POISONS, options, num_classes=len(dataset.classes), seed=seed)
        check_target(dataset, out)  # before what may take hours
        poisoned = PoisonedDataset(dataset, chosen, rate=rate, seed=seed, device=device, progress=progress)
        return poisoned.export(out, workers=workers)

    Console().print(
        f"poisoned images and poison.json in {_reported(run, OSError, RuntimeError, TypeError, ValueError)}",
        soft_wrap=True,
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data sets and the report.")] = Path("demo-out"),
) -> None:
    """Poison handwritten digits, purify them, train on each, print the accuracies. No download."""
    from ..benchmark.demo import run_demo

    _reported(lambda: run_demo(out))


@app.command()
def bench(
    out: Annotated[Path, typer.Option(help="Folder of the results; run again, it goes on where it stopped.")],
    preset: Annotated[str, typer.Option(help="tiny (digits), cpu or gpu.")] = "tiny",
    data: Annotated[
        Path | None, typer.Option(help="Folder with train/ and test/, or an .npz; without it the digits.")
    ] = None,
    poisons: Annotated[str | None, typer.Option(help="Names with commas; options as name:option=value.")] = None,
    purifiers: Annotated[str | None, typer.Option(help="Names with commas; weights as name=folder.")] = None,
    seeds: Annotated[str | None, typer.Option(help="How many (3), or which (0,2).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: the preset's.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep poisoned and purified images in.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the CPU; default: torch's own.")] = None,
) -> None:
    """Train on every poison under every purifier; write results.jsonl, report.md, report.json and two pictures."""
    from ..benchmark.command import run_command

    def run() -> str:
        return run_command(
            preset,
            out,
            data=data,
            poisons=poisons,
            purifiers=purifiers,
            seeds=seeds,
            device=device,
            cache=cache,
            threads=threads,
            say=screen.print,
        )

    Console().print(_reported(run), markup=False, highlight=False, soft_wrap=True)


def _build(name: str, table: Mapping[str, type], options: list[str] | None, **preset: Any) -> Any:
    if name not in table:
        raise typer.BadParameter(f"expected one of {', '.join(table)}, got {name!r}.", param_hint="--with")
    known = inspect.signature(table[name]).parameters
    arguments = {key: value for key, value in preset.items() if key in known}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected NAME=VALUE, got {option!r}.", param_hint="--set")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    try:
        return table[name](**arguments)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(f"{error} ({name} takes {', '.join(known)})", param_hint="--set") from error


def _reported(work: Callable[[], Any], *also: type[Exception]) -> Any:
    """Run ``work``; an error of this library, or of the kinds ``also``, becomes one line and exit status 1.

    Anything else keeps its traceback.
    """
    try:
        return work()
    except (PureTransformsError, *also) as error:
        known = isinstance(error, PureTransformsError)
        text = str(error) if known else next(iter(str(error).splitlines()), type(error).__name__)
        screen.print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
