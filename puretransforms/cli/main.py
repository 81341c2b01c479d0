"""The command line: ``puretransforms scan | clean | verify | poison | bench | leaderboard | list | weights | demo``.

Each command is one call of the library. Purifiers and poisons go by their registered names, with options as
``name:option=value``: see :mod:`puretransforms.registry`.
"""

import json
import re
import sys
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..data.open_source import named
from ..data.samples import class_names, gather, labels_of
from ..data.sources.folder import image_folder
from ..errors import RegistryError
from ..registry import Role, create, find, list_poisons, list_purifiers, parameters, parse, summary
from .shell import OneLineErrors, check_device, note, say, scanned, screen
from .weights import app as weights

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Purify poisoned image data before training.",
)
app.add_typer(weights, name="weights")

SOURCES = (
    "Folder of images or its URL; tar shards, as 'shards/{000..099}.tar'; hf:NAME#SPLIT; torchvision:CLASS:ROOT#SPLIT."
)
_MARKUP = re.compile(r"(?::\w+:)?`+~?([^`]*)`+")  # of a docstring
SPEC = "name, name:option=value (values are JSON or text), or module:Class; `puretransforms list` names them all."

Source = Annotated[str, typer.Argument(help=SOURCES)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: cpu.")]
Progress = Annotated[bool, typer.Option(help="Show a progress bar.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


def _version(wanted: bool | None) -> None:
    if wanted:
        from .. import __version__

        say(f"puretransforms {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = None,
) -> None:
    """Purify poisoned image data before training."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:  # `module:Class` finds a file of the working folder, as python does
        sys.path.append(here)


@app.command()
def scan(
    source: Source,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scan.html (pictures), suspects.csv and scan.json.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Images to draw at random; 0 looks at all.", min=0)] = 5000,
    seed: Annotated[int, typer.Option(help="Which images are drawn.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Threads that decode; default: one per core.")] = None,
    vae: Annotated[str | None, typer.Option(help="Folder of a VAEPurify that was fitted to these images.")] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 2 on an alarm or too little evidence.")] = False,
    progress: Progress = True,
) -> None:
    """Is this dataset poisoned, how, and what cures it? Nothing is changed."""
    from ..scanning.scan import scan as run
    from ..transforms.vae import VAEPurify

    fitted = None if vae is None else VAEPurify.from_pretrained(vae)
    result = run(named(source), sample=sample or None, seed=seed, workers=workers, progress=progress, vae=fitted)
    say(str(result))
    if out is not None:
        say(f"\nreport in {result.save(out)}, suspects in {out / 'suspects.csv'}")
    if result.verdict.advice.chain:
        say(f"\nto act on it: puretransforms clean {quote(source)} NEW_FOLDER --with auto")
    if fail and (result.verdict.alarms or result.insufficient):
        raise typer.Exit(2)


@app.command()
def clean(
    source: Source,
    out: Annotated[str, typer.Argument(help="New folder, or URL, for the purified images.")],
    purifiers: Annotated[
        list[str],
        typer.Option("--with", metavar="SPEC", help=f"A purifier, several times for a chain: {SPEC} auto scans first."),
    ],
    batch_size: Annotated[int, typer.Option(help="Images of one size that are purified together.")] = 256,
    workers: Annotated[int | None, typer.Option(help="Codec processes; default: one per core.")] = None,
    unit_size: Annotated[int, typer.Option(help="Files per unit of work, what a kill can cost.")] = 1000,
    seed: Annotated[int, typer.Option(help="Fixes every random draw.")] = 0,
    device: Device = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first corrupt image.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; count, time a sample, estimate.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    suspects: Annotated[Path | None, typer.Option(help="CSV file for all images, the most changed first.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for a Ray cluster.")] = "local",
    actors: Annotated[int | None, typer.Option(help="Of Ray; default: one per core, or per GPU.")] = None,
    image_key: Annotated[str | None, typer.Option(help="Image column, or extension in shards.")] = None,
    label_key: Annotated[str | None, typer.Option(help="Class column, or extension in shards.")] = None,
    progress: Progress = True,
) -> None:
    """Purify every image of SOURCE into OUT; run it again after a kill and it goes on where it stopped."""
    from ..cleaning.clean import clean as run
    from ..cleaning.clean import estimate_clean

    steps = [create(spec, "purifier") for spec in purifiers]
    purifier = steps[0] if len(steps) == 1 else steps
    shared: dict[str, Any] = {"workers": workers, "seed": seed, "device": check_device(device), "progress": progress}
    shared |= {"image_key": image_key, "label_key": label_key}
    if dry_run:
        if suspects:
            raise typer.BadParameter("expected none with --dry-run, which purifies nothing.", param_hint="--suspects")
        say(_estimated(estimate_clean(source, out, purifier, **shared)))
        return
    result = run(
        source,
        out,
        purifier,
        batch_size=batch_size,
        unit_size=unit_size,
        strict=strict,
        report=report,
        engine=engine,
        actors=actors,
        **shared,
    )
    say(_cleaned(result))
    if suspects and result.complete:
        say(f"{result.suspects(suspects)} images by how much they changed in {suspects}")
    elif suspects:
        note("no suspects yet: units of other ranks are open; whichever process comes last writes them")


@app.command()
def verify(out: Annotated[str, typer.Argument(help="A folder or URL that clean has finished.")]) -> None:
    """Read every file of OUT again and compare it with the manifest; exit status 1 if anything differs."""
    from ..cleaning.verify import verify as run

    checked = run(out)
    say(
        f"{_count(checked.files, 'file')} ({_size(checked.bytes)}) read again: all equal the manifest of "
        f"{_count(checked.rows, 'source file')}"
    )


@app.command()
def poison(
    source: Source,
    out: Annotated[Path, typer.Argument(help="New folder for the poisoned images (PNG) and poison.json.")],
    spec: Annotated[str, typer.Option("--with", metavar="SPEC", help=f"A poison: {SPEC}")],
    setup: Annotated[
        Path | None,
        typer.Option(help="Of a targeted poison: JSON file with target, base class and bases (docs/poisons.md)."),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Dataset, named as SOURCE, that holds the target if the setup gives its index.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Share of the images to poison; default: that of the poison.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes the poison and which images carry it.")] = 0,
    workers: Annotated[int, typer.Option(help="Threads that decode and encode.")] = 2,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Poison a dataset, for tests and benchmarks: lossless files, labels and mask recorded."""
    from ..poisons.dataset import PoisonedDataset, poison_named
    from ..poisons.export import check_target, export
    from ..poisons.progress import progress_bar
    from ..poisons.targeted.base import TargetedPoison, TargetedSetup

    check_device(device)
    targeted = issubclass(find(parse(spec)[0], "poison"), TargetedPoison)  # refused before anything is read
    if targeted and setup is None:
        raise typer.BadParameter(
            "expected a JSON file with target and bases of this targeted poison.", param_hint="--setup"
        )
    if not targeted and (setup or test):
        raise typer.BadParameter("expected none for a poison that aims at no single image.", param_hint="--setup")
    dataset = _labelled(source)
    chosen = poison_named(spec, class_names(dataset) or labels_of(dataset), seed)
    check_target(dataset, out)  # before what may take hours
    if setup is not None and isinstance(chosen, TargetedPoison):
        aim = TargetedSetup.from_json(setup, dataset, None if test is None else _labelled(test))
        with progress_bar(progress) as on_progress:
            chosen.fit(dataset, setup=aim, device=device, on_progress=on_progress)
    poisoned = PoisonedDataset(dataset, chosen, rate=rate, seed=seed, device=device, progress=progress)
    folder = export(poisoned, out, workers=workers)
    say(f"{int(poisoned.mask.sum()):,} of {len(poisoned):,} images poisoned\nimages and poison.json in {folder}")


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the datasets and the report.")] = Path("demo-out")) -> None:
    """Poison handwritten digits, purify them, train on each, print the accuracies. No download."""
    from ..benchmark.demo import run_demo

    run_demo(out)


@app.command()
def bench(
    out: Annotated[Path, typer.Option(help="Folder of the results; run again, it goes on where it stopped.")],
    preset: Annotated[str, typer.Option(help="tiny (digits), quarter, full or gpu.")] = "tiny",
    data: Annotated[
        str | None,
        typer.Option(help="Folder with train/ and test/, an .npz, hf:NAME or torchvision:CLASS:ROOT; else the digits."),
    ] = None,
    poisons: Annotated[
        str | None, typer.Option(help="Names with commas; options as name:option=value; clean is none.")
    ] = None,
    purifiers: Annotated[
        str | None, typer.Option(help="Names with commas; options as name:option=value; none is none.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="How many (3), or which (0,2).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the classifier; default: the preset's.", min=1)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: the preset's.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep poisoned and purified images in.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the CPU; default: torch's own.", min=1)] = None,
) -> None:
    """Train on every poison under every purifier; write report.html, report.md, report.json and two pictures."""
    from ..benchmark.command import run_command

    with screen.status("") as status:  # on a terminal alone
        report = run_command(
            preset,
            out,
            data=data,
            poisons=poisons,
            purifiers=purifiers,
            seeds=seeds,
            epochs=epochs,
            device=check_device(device),
            cache=cache,
            threads=threads,
            say=note,
            on_epoch=lambda progress: status.update(escape(str(progress))),
        )
    say(report)


@app.command()
def leaderboard(
    results: Annotated[Path, typer.Argument(help="Folder that bench wrote, or any folder of its JSON files.")],
    out: Annotated[Path, typer.Option(help="The page to write; one that is there is replaced.")] = Path(
        "leaderboard.html"
    ),
) -> None:
    """Make a page, and tables on standard output, of all results below RESULTS: poisons by purifiers, best first."""
    from ..benchmark.entries import RESULTS
    from ..benchmark.leaderboard import build_leaderboard

    inner = results / RESULTS
    board = build_leaderboard(inner if inner.is_dir() else results)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(board.html)
    say(f"{board.markdown()}\npage in {out}")


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only this one, with its options and their defaults.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every purifier and poison by name, in one line each; those that other packages add are among them."""
    if name is not None:
        _described(name, as_json)
        return
    names: dict[Role, list[str]] = {"purifier": list_purifiers(), "poison": list_poisons()}
    known = {
        role: [{"name": one, "summary": _summary(one, role), "options": _options(one, role)} for one in every]
        for role, every in names.items()
    }
    if as_json:
        print(json.dumps({f"{role}s": rows for role, rows in known.items()}, indent=1))
        return
    width = max(len(row["name"]) for rows in known.values() for row in rows)
    for role, rows in known.items():
        say(f"{role}s, for {'clean' if role == 'purifier' else 'poison'} --with and for bench")
        for row in rows:
            say(f"  {row['name']:{width}}  {row['summary']}")


def _described(name: str, as_json: bool) -> None:
    """One purifier or poison: its line, then ``option = default`` of each argument."""
    cls: Any = find(name)
    if as_json:
        options = _options(name, None)
        print(json.dumps({"name": name, "role": cls.role, "summary": _summary(name, None), "options": options}))
        return
    say(_summary(name, None))
    for key, parameter in parameters(cls).items():
        say(f"  {key}" + ("" if parameter.default is parameter.empty else f" = {_value(parameter.default)}"))


def _summary(name: str, role: Role | None) -> str:
    try:
        return _MARKUP.sub(r"\1", summary(name, role))
    except RegistryError as error:  # the others are to be listed all the same
        return f"cannot be loaded: {error}"


def _options(name: str, role: Role | None) -> list[str]:
    try:
        return list(parameters(find(name, role)))
    except RegistryError:
        return []


def _value(default: Any) -> str:
    try:
        return default if isinstance(default, str) else json.dumps(default)
    except TypeError:
        return str(default)


def _labelled(source: str) -> Any:
    """A map-style dataset of images and integer labels; what is no folder and not torchvision's is read into memory."""
    data = named(source)
    if isinstance(data, str):
        remote = "://" in data or data.endswith(".tar")
        return gather(data) if remote and not Path(data).is_dir() else image_folder(data)
    return gather(data) if type(data).__module__.partition(".")[0] == "datasets" else data


def _cleaned(result: Any) -> str:
    counts = ", ".join(f"{number:,} {status}" for status, number in sorted(result.counts.items()) if number)
    same = f" ({result.unchanged:,} of the purified unchanged)" if result.unchanged else ""
    took = f", in {_time(result.seconds)} ({result.images_per_second:,.0f} images/s)"
    if result.complete and not result.images_per_second:
        took = ": already complete, nothing was done"
    lines = [
        *scanned(result.scan),
        f"{counts or 'nothing to do'}{same}{took}",
        f"purified images in {result.out}",
    ]
    lines += [] if result.report is None else [f"report in {result.report}"]
    lines += [] if result.complete else ["not complete yet: units of other ranks are open"]
    return "\n".join(lines)


def _estimated(run: Any) -> str:
    fits = "they fit" if run.fits else "THEY DO NOT FIT"
    free = "" if run.bytes_free >= sys.maxsize else f" of {_size(run.bytes_free)} free: {fits}"
    rest = ((run.suspects, "to put aside"), (run.others, "other files to copy"), (run.skipped, "to skip"))
    others = [f"{number:,} {what}" for number, what in rest if number]
    damaged = f", {run.damaged} of them damaged" if run.damaged else ""
    return "\n".join(
        [
            *scanned(run.scan),
            ", ".join([f"{_count(run.images - run.suspects, 'image')} ({_size(run.bytes_in)}) to purify", *others]),
            f"about {_time(run.seconds)} on this machine ({run.images_per_second:,.0f} images/s, from a sample of "
            f"{run.sampled}{damaged})",
            f"about {_size(run.bytes_needed)} on the disk{free}",
            "nothing was written",
        ]
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _size(count: int | float) -> str:
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:,.0f} {units[0]}" if units[0] == "bytes" else f"{count:,.1f} {units[0]}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    app()
