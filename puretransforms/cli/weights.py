"""The command line of the weights: ``puretransforms weights list | show | download | verify | push``."""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..errors import PureTransformsError, WeightsUnavailableError
from ..hub.files import CARD, CONFIG, WEIGHTS, sha256_of
from ..hub.load import Access, endpoint, fetch
from ..hub.load import download as download_files
from ..hub.push import push
from ..hub.weights import META, PurifierWeights, card_of, get_weights, list_weights, registered_as
from ..transforms.base import PureTransform
from .shell import complain

_ALONG = (META, "recipe.py", "metrics.json")  # pushed too where they lie beside the weights


app = typer.Typer(no_args_is_help=True, help="Pretrained purifiers: named, pinned by hash, bundled or on the Hub.")

Which = Annotated[str, typer.Argument(help="A registered name, a folder, or a repo user/name[@revision] of the Hub.")]
Token = Annotated[str | None, typer.Option(help="Hugging Face token; default: that of `hf auth login`.")]


@app.command("list")
def list_() -> None:
    """Every registered name, what it is for and where it is."""
    table = Table("name", "transform", "pixels", "license", "where")
    for name in list_weights():
        entry = get_weights(name)
        table.add_row(name, entry.transform, str(entry.image_size), entry.license, _where(entry))
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A registered name.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """All that is registered about NAME: repo, commit, hashes, training data, license, measured values."""
    entry = get_weights(name)
    facts = asdict(entry) | {"where": _where(entry), "folder": str(entry.folder()) if entry.folder() else None}
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        lines = [f"{k} {v}" for k, v in value.items()] if isinstance(value, dict) else [value]
        for line in lines or ["none"]:
            print(f"{key}: {line}")


@app.command()
def download(
    weights: Which,
    out: Annotated[
        Path | None, typer.Option(help="Also write the files to this new folder, for machines without a network.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: the pinned one.")] = None,
    token: Token = None,
) -> None:
    """Fetch WEIGHTS into the cache, compare hashes, say where they came from."""
    files, origin, _ = fetch(weights, revision=revision, token=token)
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise WeightsUnavailableError(f"expected a new or empty folder for the files, got {str(out)!r}.")
        out.mkdir(parents=True, exist_ok=True)
        files |= _beside(weights, files, origin, revision, token)
        for name, data in files.items():
            (out / name).write_bytes(data)
    print(f"{origin}: {', '.join(f'{name} ({len(data)} bytes)' for name, data in files.items())}")


@app.command()
def verify(
    weights: Annotated[list[str] | None, typer.Argument(help="Names, folders or repos; default: all names.")] = None,
    token: Token = None,
) -> None:
    """Compare every hash, load every network strictly; exit status 1 if anything differs."""
    failed = False
    for one in weights or list_weights():
        try:
            print(f"ok {one}: {_checked(one, token)}")
        except PureTransformsError as error:
            failed = True
            complain(error)
    raise typer.Exit(int(failed))


@app.command("push")
def push_(
    weights: Which,
    repo_id: Annotated[str, typer.Argument(help="Repo user/name; it is created if there is none.")],
    private: Annotated[bool | None, typer.Option(help="Of a repo that is created.")] = None,
    branch: str | None = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: str = "Push purifier with puretransforms",
    token: Token = None,
) -> None:
    """Check WEIGHTS and write their files to REPO_ID in one commit; print the commit to pin."""
    _checked(weights, token)
    files, origin, _ = fetch(weights, token=token)
    files |= _beside(weights, files, origin, None, token)
    if CARD not in files:
        raise WeightsUnavailableError(
            f"expected a {CARD} beside {CONFIG} and {WEIGHTS} of {origin}: write it, or save_pretrained, which does."
        )
    commit = push(
        files, repo_id, commit_message=message, token=token, private=private, branch=branch, create_pr=create_pr or None
    )
    print(f"pushed {', '.join(files)} to {endpoint()}/{repo_id}; pin revision={commit.oid}")


def _beside(
    weights: str, files: dict[str, bytes], origin: str, revision: str | None, token: str | None
) -> dict[str, bytes]:
    """The card and what else lies beside config and weights: in their folder, in their repo, else as registered."""
    entry = registered_as(sha256_of(files[WEIGHTS]))
    named = get_weights(weights) if weights in list_weights() else None
    folder = named.folder() if named is not None and revision is None else Path(weights)
    if folder is not None and folder.is_dir():
        found = {name: (folder / name).read_bytes() for name in (CARD, *_ALONG) if (folder / name).is_file()}
    else:
        repo_id, _, commit = origin.rpartition("@")
        found = {}
        for name in (CARD, *_ALONG):
            with suppress(WeightsUnavailableError):  # a repo need not have it
                found |= download_files(Access(repo_id, commit, token=token), {name: None})[0]
    registered = {} if entry is None else {CARD: card_of(entry).encode()}
    return registered | found


def _checked(weights: str, token: str | None) -> str:
    """Loads, and where they are registered equal their entry in class and card."""
    made = PureTransform.from_pretrained(weights, token=token)
    entry = get_weights(weights) if weights in list_weights() else None
    if entry is not None:
        kind, folder = type(made).__name__, entry.folder()
        if kind != entry.transform:
            raise WeightsUnavailableError(f"expected {weights} to be a {entry.transform}, got a {kind}.")
        if folder is not None and (folder / CARD).read_text(encoding="utf-8") != card_of(entry):
            raise WeightsUnavailableError(f"expected {folder / CARD} to say what is registered: write it again.")
    return f"{type(made).__name__} {getattr(made, 'pretrained', '')}".strip()


def _where(entry: PurifierWeights) -> str:
    hub = f"{entry.repo_id}@{entry.revision[:12]}" if entry.revision else f"{entry.repo_id} (not pushed yet)"
    return f"in the package; {hub}" if entry.folder() else hub
