"""`jaxfuse experiment`: run a published experiment again."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jaxfuse.data.cache import default_cache_dir
from jaxfuse.experiments import (
    EXPERIMENTS,
    SCALES,
    Nursery,
    Results,
    renew,
    report,
    resume,
    run,
)

if TYPE_CHECKING:
    from jaxfuse.experiments import Scale

    ExperimentName = str
    TableName = str
else:  # the command line takes the choices from the tables
    ExperimentName = Literal[tuple(EXPERIMENTS)]
    TableName = Literal[tuple(name for tables in EXPERIMENTS.values() for name in tables)]
    Scale = Literal[SCALES]

_HOURS = 3600.0  # the estimate of the time left looks back as far


@dataclass(frozen=True)
class Experiment:
    """Run a published experiment again, with every competitor done fairly.

    compact-ensemble: replace K networks by one of the same size, GAMF's first application. Trains
    the parents, fuses them in every way, finetunes and evaluates.
    federated: train one network on the examples of many clients, GAMF's second application.
    Both write table.md, results.json and pictures. What results.json holds is not measured again,
    so a run that was killed goes on where it was. Trained networks are cached by their
    configuration.
    """

    experiment: tyro.conf.Positional[ExperimentName]
    """Which experiment."""
    table: TableName
    """mnist, lenet, vgg11: two and four networks fused. similarity: first against second order.
    time: seconds beside accuracy. widths: a wide and a narrow network. het4: four heterogeneous
    networks. Of federated, clients: that begin with the same weights; apart: with their own."""
    scale: Scale = "ci"
    """ci: scikit-learn's digits, under two minutes. cpu: MNIST and CIFAR-10 at the size that two
    cores can train. full: the published sizes, for an accelerator."""
    seeds: tuple[int, ...] = ()
    """Seeds of the parents; those of the table by default."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the results; jaxfuse-experiments/TABLE-SCALE by default."""
    cache: Path | None = None
    """Folder of trained networks; by default experiments in jaxfuse's cache folder."""
    data_dir: Path | None = None
    """Folder of prepared TFDS datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    fresh: bool = False
    """Measure all again, whatever results.json holds. Trained networks are kept."""
    readme: Path | None = None
    """Markdown file in which the table is renewed, between its marks."""

    def run(self, console: Console) -> None:
        """Run what is missing, and write the table."""
        tables = EXPERIMENTS[self.experiment]
        if self.table not in tables:
            raise ValueError(f"{self.experiment} has the tables {', '.join(tables)}")
        table: Any = tables[self.table](self.scale)
        if self.seeds:
            if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
                raise ValueError(
                    f"--seeds are different numbers from 0 on, got {' '.join(map(str, self.seeds))}"
                )
            table = replace(table, seeds=self.seeds)
        folder = self.output or Path("jaxfuse-experiments") / f"{self.table}-{self.scale}"
        cache = self.cache or default_cache_dir() / "experiments"
        path = folder / "results.json"
        results = resume(self.table, self.scale, table, path, fresh=self.fresh)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", style="dim"),
        )
        try:
            with Progress(*columns, console=console, speed_estimate_period=_HOURS) as progress:
                # Begun where the last run ended: those cells tell nothing of the time left.
                done = sum(cell in results.cells for cell in table.cells())
                name = f"{self.table}, {self.scale}"
                task = progress.add_task(name, total=len(table.cells()), completed=done, text="")

                def tell_cell(name: str, done: int, total: int) -> None:
                    progress.update(task, completed=done, total=total, text=name)

                def tell_training(text: str, share: float) -> None:
                    progress.update(task, text=f"{text} {share:.0%}")

                nursery = Nursery(cache, self.data_dir, tell_training)
                run(table, results, path, nursery, tell_cell)
        finally:
            # What was measured before an interruption makes a table too.
            if results.cells:
                self._report(table, results, folder, console)

    def _report(self, table: Any, results: Results, folder: Path, console: Console) -> None:
        """Write and print the table."""
        written = report(table, results, folder)
        text = written[0].read_text()
        if self.readme is not None:
            renew(self.readme, self.table, text)
        console.print(Markdown(text))
        for file in (folder / "results.json", *written):
            console.print(f"Wrote {file}", soft_wrap=True)
