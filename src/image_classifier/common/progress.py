"""Progress of a step: a bar in a terminal; in a log file, one line a minute."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

INTERVAL = 60  # seconds between two lines, where standard error is no terminal

_bar: tqdm | None = None  # the current one: steps follow each other


def progress_bar(
    title: str,
    total: int | None,
    unit: str = "image",
    initial: int = 0,
    hidden: bool = False,
) -> "tqdm | ProgressLines":
    """Show the progress of a step on standard error; use it in a `with` statement.

    The bar disappears when the step ends, so that only the step's result stays on the screen. An
    object that cannot use `with` calls `close`.

    Args:
        title: the name of the step.
        total: number of units in the whole step; None: unknown.
        unit: one of the things that `update(count)` counts; "B" for bytes.
        initial: units that were done before.
        hidden: show nothing.
    """
    if not sys.stderr.isatty() and not hidden:
        return ProgressLines(title, total, unit, initial)
    global _bar
    in_bytes = unit == "B"
    _bar = tqdm(
        desc=title,
        total=total,
        unit=unit if in_bytes else f" {unit}s",
        unit_scale=in_bytes,
        initial=initial,
        disable=hidden,
        leave=False,
        dynamic_ncols=True,
    )
    return _bar


def close_bar() -> None:
    """Remove the bar of an interrupted step from the screen, before its error is printed."""
    if _bar is not None:
        _bar.close()


def track(
    items: Iterable[Item], title: str, total: int | None, unit: str = "image"
) -> Iterator[Item]:
    """Yield the items, and show a `progress_bar` that counts them."""
    with progress_bar(title, total, unit) as progress:
        for item in items:
            yield item
            progress.update()


class ProgressLines:
    """Print a line every `INTERVAL` seconds, so that a log file shows that a long step is alive."""

    def __init__(self, title: str, total: int | None, unit: str, initial: int) -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._count = initial
        self._start = time.monotonic()
        self._next_line = self._start + INTERVAL

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left on the screen."""

    def update(self, count: int = 1) -> None:
        """Count further units as done."""
        self._count += count
        now = time.monotonic()
        if now < self._next_line:
            return
        self._next_line = now + INTERVAL
        whole = f" of {self._format(self._total)}" if self._total else ""
        unit = self._unit if self._unit == "B" else f" {self._unit}s"
        print(
            f"{self._title}: {self._format(self._count)}{whole}{unit}, {now - self._start:.0f} s",
            file=sys.stderr,
            flush=True,
        )

    def _format(self, count: int) -> str:
        return tqdm.format_sizeof(count) if self._unit == "B" else f"{count:,}"
