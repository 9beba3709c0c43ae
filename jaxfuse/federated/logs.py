"""What a federated run writes: tables, TensorBoard events, a picture."""

import csv
import io
import json
import math
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jaxfuse.atomic import replacing, write_text
from jaxfuse.federated.federate import Round

_SCALARS = ("accuracy", "loss", "train_loss", "kept", "seconds")


class RunLogs:
    """The logs of one run in one folder: rounds.csv, rounds.json and TensorBoard events.

    The tables are written anew after every round, atomically. Events are begun anew with the logs,
    so that a run that goes on after it was killed has each round once.

    Args:
        folder: where; made where it does not exist.
        settings: of the run, for the JSON file.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RunLogs(folder, {"local": "sgd"}) as logs:
        ...         logs.add(Round(1, 0.5, 1.2, 1.5, 10, 0, 1.0, 0.3))
        ...     print(Path(folder, "rounds.csv").read_text().splitlines()[1])
        1,0.5,1.2,1.5,10,0,1.0,0.3
    """

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, Any]):
        # Here, since only who logs needs it, and it takes a second to import.
        from tensorboardX import SummaryWriter

        self._folder = Path(folder)
        self._settings = settings
        self._history: list[Round] = []
        shutil.rmtree(self._folder / "tensorboard", ignore_errors=True)
        self._events = SummaryWriter(os.fspath(self._folder / "tensorboard"))

    def add(self, row: Round) -> None:
        """Write one more round."""
        self._history.append(row)
        for name in _SCALARS:
            value = getattr(row, name)
            if math.isfinite(value):
                self._events.add_scalar(name, value, row.round)
        self._events.flush()
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(Round._fields)
        table.writerows(self._history)
        write_text(self._folder / "rounds.csv", text.getvalue())
        rows = [
            {name: _plain(value) for name, value in row._asdict().items()} for row in self._history
        ]
        content = {"settings": self._settings, "rounds": rows}
        write_text(self._folder / "rounds.json", json.dumps(content, indent=1) + "\n")

    def plot(self, title: str) -> Path:
        """Draw accuracy and training loss over the rounds; return the picture's path."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
        left = figure.subplots()
        right = left.twinx()
        seen = [row for row in self._history if math.isfinite(row.accuracy)]
        numbers, accuracies = [row.round for row in seen], [100 * row.accuracy for row in seen]
        left.plot(numbers, accuracies, "o-", color="#0072B2", label="test accuracy")
        right.plot(
            [row.round for row in self._history],
            [row.train_loss for row in self._history],
            "s--",
            color="#D55E00",
            label="clients' training loss",
        )
        left.set(xlabel="round", ylabel="test accuracy (%)", title=title)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.set_ylabel("training loss (cross entropy, nats)")
        right.set_ylim(bottom=0)
        left.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        path = self._folder / "rounds.png"
        with replacing(path) as file:
            figure.savefig(file, format="png")
        return path

    def close(self) -> None:
        """Close the events."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
