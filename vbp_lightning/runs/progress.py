"""How far long work has come, on the standard error stream."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, track

Item = TypeVar("Item")


def shown_progress(items: Iterable[Item], what: str) -> Iterable[Item]:
    """The items, with a bar while they are taken.

    Args:
        items: Of known length, or the bar only moves.
        what: Stands before the bar.
    """
    return track(items, what, console=Console(stderr=True), transient=True)


def progress_bar() -> Progress:
    """A bar for work that tells its own steps; a context manager, gone afterwards."""
    return Progress(console=Console(stderr=True), transient=True)
