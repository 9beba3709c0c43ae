"""Progress bars for long work."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining


class Bars:
    """One bar per piece of work, made when the work first reports."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, share: float, text: str = "") -> None:
        """Set the bar of a piece of work.

        Args:
            name: the piece of work; a new name opens a new bar.
            share: how much of it is done, 0 to 1.
            text: what to say beside it.
        """
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=1.0, text="")
        self._progress.update(self._tasks[name], completed=share, text=text)


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Show bars while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        Remaining(),
        TextColumn("{task.fields[text]}", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)
