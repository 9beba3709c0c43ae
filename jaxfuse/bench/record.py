"""What a run leaves behind: its rows, and the machine that they are from."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

import jaxfuse
from jaxfuse.atomic import write_text
from jaxfuse.bench.timing import Ratio

PACKAGES = ("jax", "numpy", "scipy", "optax", "POT", "lapx", "ott-jax", "pygmtools")


@dataclass(frozen=True)
class Row:
    """One contestant of one case.

    Attributes:
        suite: the suite of the case.
        case: its name.
        contestant: who ran; the first one of a case is ours.
        series: cases of one series differ in their size alone.
        axis: what the size counts.
        size: the size, None for a case that is no part of a series.
        seconds: median of the rounds; None where the contestant could not run.
        quartiles: first and third quartile of the rounds.
        first: seconds of the first call, with compilation.
        rounds: samples behind the median.
        ratio: seconds of the case's first contestant over this one's, round by round.
        quality: the matching, in the words of `jaxfuse.bench.quality`.
        reach: seconds until the objective of the case's rival was reached; None where it never was
            or nobody asked.
        rates: achieved flops, exps and bytes per second.
        shares: the same as shares of the machine's ceilings.
        peak: MiB by which a first call in a fresh process raised its peak, compiler included.
        program: MiB that the compiled program itself takes for its result and scratch space.
        predicted: exponents of seconds and of program in the size, as theory has them.
        note: what is to be said; for an absent contestant, what it would need.
    """

    suite: str
    case: str
    contestant: str
    series: str = ""
    axis: str = ""
    size: float | None = None
    seconds: float | None = None
    quartiles: tuple[float, float] | None = None
    first: float | None = None
    rounds: int = 0
    ratio: Ratio | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    reach: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    peak: float | None = None
    program: float | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Row":
        """Rebuild a row from what JSON holds of it."""
        known = dict(content)
        if known.get("ratio") is not None:
            known["ratio"] = Ratio(**known["ratio"])
        if known.get("quartiles") is not None:
            known["quartiles"] = tuple(known["quartiles"])
        return cls(**known)


@dataclass(frozen=True)
class Report:
    """All rows so far.

    Attributes:
        machine: what they were measured on.
        date: when the run began, in UTC.
        quick: whether the sizes are the small ones.
        ceilings: what the machine can do per second.
        rows: one for each contestant of each case.
        done: names of the suites and cases that are complete.
    """

    machine: Mapping[str, Any]
    date: str
    quick: bool
    ceilings: Mapping[str, float] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    done: tuple[tuple[str, str], ...] = ()

    @classmethod
    def start(cls, quick: bool) -> "Report":
        """Begin an empty report of this machine."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(machine(), now, quick)

    def plus(self, suite: str, case: str, rows: list[Row]) -> "Report":
        """Return the report with one more case."""
        rest = tuple(row for row in self.rows if (row.suite, row.case) != (suite, case))
        done = tuple(dict.fromkeys((*self.done, (suite, case))))
        return dataclasses.replace(self, rows=(*rest, *rows), done=done)

    def without(self, cases: Collection[tuple[str, str]]) -> "Report":
        """Return the report with some suites and cases to be measured again."""
        done = tuple(case for case in self.done if case not in cases)
        return dataclasses.replace(self, done=done)

    def to_json(self) -> str:
        """Write the report as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read what `to_json` wrote."""
        content = json.loads(text)
        rows = tuple(Row.from_dict(row) for row in content.pop("rows"))
        done = tuple((suite, case) for suite, case in content.pop("done"))
        return cls(**content, rows=rows, done=done)

    def save(self, path: Path) -> None:
        """Write a file that is there in full or not at all."""
        write_text(path, self.to_json())

    def continues(self, other: "Report") -> bool:
        """Tell whether rows of another report may stand beside those of this one."""
        return (self.quick, dict(self.machine)) == (other.quick, dict(other.machine))


def machine() -> dict[str, Any]:
    """Describe what the numbers are measured on: the default device and the versions."""
    chosen = jax.config.values["jax_default_device"]
    device = chosen if isinstance(chosen, jax.Device) else jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "jaxfuse": jaxfuse.__version__,
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
