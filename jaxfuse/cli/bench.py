"""`jaxfuse bench`: measure kernels and alignments beside other libraries."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn
from rich.table import Table

from jaxfuse.atomic import write_text
from jaxfuse.bench import compare, html, table
from jaxfuse.bench.cases import SUITES
from jaxfuse.bench.ceilings import measure_ceilings
from jaxfuse.bench.contest import Case
from jaxfuse.bench.record import Report
from jaxfuse.bench.run import CHECK, PLAN, QUICK, run, select, without_cache
from jaxfuse.bench.timing import Plan
from jaxfuse.cli.options import refuse_given

STORED = Path("benchmarks/results/bench_check.json")
_WIDTH = 190


@dataclass(frozen=True)
class Bench:
    """Measure jaxfuse beside other libraries: time, memory and the quality of every matching.

    The contestants of a case take turns, so ratios hold where absolute times do not. Peers come
    with `pip install 'jaxfuse[bench]'`; one that is missing has a row that says so.
    """

    suite: Literal["kernels", "align", "many", "scale", "check", "all"] = "kernels"
    """kernels: Sinkhorn, assignments, one Gaussian block. align: two networks. many: K networks.
    scale: growth with every size. all: these four. check: a small one, compared with the ratios
    that are stored; a case that is worse is measured once more."""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """What to run on; JAX's default device otherwise."""
    json: Path | None = None
    """File for the results, written after every case. Cases that it holds are not run again."""
    markdown: Path | None = None
    """File for the table."""
    html: Path | None = None
    """File for the report with pictures, one page that needs no other file."""
    quick: bool = False
    """Small sizes and few repeats."""
    only: str = "*"
    """Pattern of the cases, such as '*hungarian*'."""
    fresh: bool = False
    """Measure all cases again, whatever the JSON file holds."""
    update: bool = False
    """With --suite check: store this run's ratios instead of comparing with the stored ones."""
    stored: Path = STORED
    """With --suite check: the file of the stored ratios."""
    margin: float | None = None
    """With --suite check: relative rise of a ratio that fails; the stored margin by default."""

    def run(self, console: Console) -> None:
        """Measure, print the table, and write what was asked for."""
        checks = self.suite == "check"
        if not checks:
            refuse_given(self, ("update", "stored", "margin"), "is for --suite check")
        quick = self.quick or checks
        selected = self._selected(quick)
        stored = self._stored(selected) if checks and not self.update else None
        with _measuring(self.device):
            plan = CHECK if checks else QUICK if quick else PLAN
            report = self._measure(console, selected, self._report(quick), plan)
            if stored is not None:
                # What is slow twice is slow; once may be another program on the machine.
                suspects = {
                    each.case for each in compare.failures(report.rows, stored, self.margin)
                }
                again = [(suite, case) for suite, case in selected if case.name in suspects]
                report = report.without([(suite, case.name) for suite, case in again])
                report = self._measure(console, again, report, plan)
        wide = console if sys.stdout.isatty() else Console(width=_WIDTH, markup=False, emoji=False)
        shown = _only(report, selected)
        for part in table.terminal(shown):
            wide.print(part)
        console.print(table.about(report), soft_wrap=True, highlight=False)
        if self.markdown is not None:
            write_text(self.markdown, table.markdown(report))
        if self.html is not None:
            write_text(self.html, html.page(report))
        if self.update:
            compare.store(shown, self.stored, keep=self.only != "*")
            console.print(f"Wrote {self.stored}", soft_wrap=True)
        elif stored is not None:
            self._verdict(console, shown, stored)

    def _stored(self, selected: Sequence[tuple[str, Case]]) -> dict[str, Any]:
        """Return what the run is compared with: all of it, or that of the cases asked for."""
        stored = compare.load(self.stored)
        if self.only == "*":
            return stored
        return compare.of_cases(stored, {case.name for _, case in selected})

    def _selected(self, quick: bool) -> list[tuple[str, Case]]:
        """Return the cases to run, of one suite or of all."""
        if self.suite != "all":
            return [(self.suite, case) for case in select(self.suite, quick, self.only)]
        found, refused = [], []
        for suite in SUITES:
            if suite == "check":
                continue
            try:
                found += [(suite, case) for case in select(suite, quick, self.only)]
            except ValueError as error:
                refused.append(str(error))
        if not found:
            raise ValueError("; ".join(refused))
        return found

    def _report(self, quick: bool) -> Report:
        """Begin a report, or go on with the one in the JSON file."""
        begun = Report.start(quick)
        if self.json is not None and self.json.exists() and not self.fresh:
            try:
                held = Report.from_json(self.json.read_text())
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.json} holds no results of this command ({error}): name another file "
                    "or give --fresh"
                ) from error
            if not begun.continues(held):
                raise ValueError(
                    f"{self.json} was measured with other sizes, versions or on another machine: "
                    "name another file or give --fresh"
                )
            return held
        return dataclasses.replace(begun, ceilings=measure_ceilings(quick=quick))

    def _measure(
        self, console: Console, selected: Sequence[tuple[str, Case]], report: Report, plan: Plan
    ) -> Report:
        """Run the cases under a progress bar, and keep the report after each."""
        columns = (
            SpinnerColumn(),
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("ceilings", total=len(selected))

            def tell(now: Report, name: str, done: int, total: int) -> None:
                progress.update(task, completed=done, total=total, description=name or "done")
                if self.json is not None and now.rows:
                    now.save(self.json)

            return run(selected, report, tell, plan)

    def _verdict(self, console: Console, report: Report, stored: dict[str, Any]) -> None:
        """Say whether the run is as good as the stored one, and leave with 1 if not."""
        found = compare.failures(report.rows, stored, self.margin)
        margin = stored["margin"] if self.margin is None else self.margin
        same = all(
            stored["machine"].get(what) == report.machine.get(what) for what in ("device", "cores")
        )
        if not same:
            console.print("Note: the stored ratios are from another machine", soft_wrap=True)
        if not found:
            count = len(stored["rows"])
            console.print(f"As good as {self.stored}: {count} rows, margin {margin:.0%}")
            return
        worse = Table(title=f"Worse than {self.stored}, margin {margin:.0%}", title_justify="left")
        worse.add_column("row", overflow="fold")
        worse.add_column("what", overflow="fold")
        for failure in found:
            worse.add_row(failure.row, failure.what)
        console.print(worse)
        sys.exit(1)


def _only(report: Report, selected: list[tuple[str, Case]]) -> Report:
    """Return a report with the rows of the selected cases alone, in their order."""
    place = {(suite, case.name): index for index, (suite, case) in enumerate(selected)}
    rows = [row for row in report.rows if (row.suite, row.case) in place]
    rows.sort(key=lambda row: place[row.suite, row.case])
    return dataclasses.replace(report, rows=tuple(rows))


@contextmanager
def _measuring(device: str | None) -> Iterator[None]:
    """Compile everything anew on one device while the block runs."""
    # The children that measure memory need what this process would otherwise reserve.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    cached = jax.config.values["jax_enable_compilation_cache"]
    before = jax.config.values["jax_default_device"]
    without_cache()
    try:
        if device is not None:
            try:
                jax.config.update("jax_default_device", jax.devices(device)[0])
            except RuntimeError as error:
                raise ValueError(
                    f"there is no {device} here: JAX has {jax.default_backend()}. Leave --device, "
                    "or install the JAX of your accelerator"
                ) from error
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
        jax.config.update("jax_default_device", before)
