"""How far a crafting is: one record, one counter that the loops advance, and one bar that shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm


@dataclass(frozen=True)
class CraftRecord:
    """``done`` of ``total`` steps of a stage; a step is one gradient step on one batch.

    ``stage`` is ``"surrogate"`` while a network is trained first, and ``"perturbation"`` for the optimisation itself.
    ``total`` is what the stage takes at most: some poisons stop early, and then say so by a last record whose ``total``
    is ``done``.
    """

    stage: str
    done: int
    total: int


OnProgress = Callable[[CraftRecord], None]


class Progress:
    """Counts steps and tells ``on_progress``: ``begin(stage, total)``, then ``step()`` after each, and ``end()``.

    Args:
        on_progress: called with a :class:`CraftRecord` at the beginning of a stage, after each step, and at its end
            where that came early; ``None`` for nobody.
    """

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self._tell = on_progress
        self._now = CraftRecord("", 0, 0)

    def begin(self, stage: str, total: int) -> None:
        """A stage of at most ``total`` steps."""
        self._say(CraftRecord(stage, 0, total))

    def step(self) -> None:
        """One more step is done."""
        self._say(CraftRecord(self._now.stage, self._now.done + 1, self._now.total))

    def end(self) -> None:
        """The stage is over, however many steps it took."""
        if self._now.done != self._now.total:
            self._say(CraftRecord(self._now.stage, self._now.done, self._now.done))

    def _say(self, record: CraftRecord) -> None:
        self._now = record
        if self._tell is not None:
            self._tell(record)


@contextmanager
def progress_bar(show: bool) -> Iterator[OnProgress | None]:
    """An ``on_progress`` that draws a bar for each stage with rate and time left, or ``None`` if not ``show``."""
    if not show:
        yield None
        return
    bars: dict[str, tqdm] = {}

    def draw(record: CraftRecord) -> None:
        if record.stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[record.stage] = tqdm(total=record.total, desc=record.stage, unit="step")
        bar = bars[record.stage]
        bar.total = record.total
        bar.update(record.done - bar.n)
        if record.done == record.total:
            bar.refresh()

    try:
        yield draw
    finally:
        for bar in bars.values():
            bar.close()
