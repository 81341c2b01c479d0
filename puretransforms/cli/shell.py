"""How the commands speak: errors in one line without a traceback, notes and sentences that are never wrapped."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import PureTransformsError
from ..functional.devices import check_available, device_named

USER_ERRORS = (PureTransformsError, OSError, ValueError, TypeError, RuntimeError, ImportError, MemoryError)
AFTER_CTRL_C = {
    "clean": "what is done is kept: the same command goes on where it stopped",
    "bench": "",  # says itself where its results are
    "poison": "nothing was written: the same command starts again",
    "scan": "nothing was written: the same command starts again",
    "demo": "the same command starts again",
}

screen = Console(stderr=True)


def say(text: str) -> None:
    """Print ``text`` to standard output as it is: no markup, no colours, no line breaks of our own."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)


def note(text: str) -> None:
    """Print ``text`` to standard error as it is."""
    screen.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)


def complain(error: Exception | str) -> None:
    """Print an error as one line on standard error."""
    text = error if isinstance(error, str) else one_line(error)
    screen.print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True, emoji=False)


def one_line(error: Exception) -> str:
    """What an error says, in one line; an error that is not this library's own says its kind first."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, PureTransformsError):
        return " ".join(lines)
    return lines[0] if lines[0].startswith("expected") or not str(error) else f"{type(error).__name__}: {lines[0]}"


def check_device(device: str | None) -> str | None:
    """``device``, if torch can work there.

    Raises:
        HardwareError: no such device, or not on this machine.
    """
    if device is not None:
        check_available(device_named(device))
    return device


def scanned(scan: Mapping[str, Any] | None) -> list[str]:
    """What the scan of ``auto`` said, and what was done about it, in lines; ``scan`` as in ``run.json``."""
    if scan is None:
        return []
    lines = [f"scan: {scan['headline']}. {scan['sentence']}", *(f"- {line}" for line in scan["reasons"])]
    dropped = scan["dropped"]
    if dropped["images"]:
        by = ", ".join(f"{number:,} by {names}" for names, number in dropped["by"].items())
        lines.append(f"put aside in the quarantine folder: {dropped['images']:,} images that carry a trigger ({by})")
    if scan["left"]:
        lines.append(f"left in: {scan['left']:,} more, named by a second look at the others")
    return [*lines, f"purifier: {scan['purifier']}"]


class OneLineErrors(typer.core.TyperGroup):
    """The whole program: a user's mistake is one line on standard error, and status 1 (2 for a wrong command line).

    Ctrl-C says in one line how to go on, with status 130. Only what no user can cause keeps its traceback.
    """

    def main(self, args: Sequence[str] | None = None, *more: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, and leave by ``SystemExit``."""
        run: Any = super().main
        if not standalone_mode:
            return run(args, *more, standalone_mode=False, **extra)
        with warnings.catch_warnings():  # restores the next line
            warnings.formatwarning = _as_note
            try:
                status = run(args, *more, standalone_mode=False, **extra)
            except USER_ERRORS as error:
                complain(error)
                status = 1
            except typer.Abort:
                status = 130
            except Exception as error:
                if not hasattr(error, "format_message"):
                    raise
                status = _refused(error)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; say how to go on after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            how = AFTER_CTRL_C.get(ctx.invoked_subcommand, "the same command starts again")
            if how:
                note(f"stopped; {how}")
            raise typer.Exit(130) from interrupt


def _refused(error: Any) -> int:
    """Say what is wrong with the command line; help where it was empty."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    complain(f"{error.format_message().rstrip('.')}.{hint}".replace("\n", " "))
    return int(error.exit_code)


def _as_note(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"note: {' '.join(str(message).split())}\n"
