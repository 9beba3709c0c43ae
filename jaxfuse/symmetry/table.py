"""Print a symmetry as a table."""

import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from jaxfuse.symmetry.axes import Run, TensorAxes
    from jaxfuse.symmetry.spec import Symmetry

_RUNS = 2


def table(
    symmetry: "Symmetry", *, width: int = 100, groups: int = 60, leaves: int = 4, pins: int = 4
) -> str:
    """Print the groups of a symmetry, what they lie on, and what is pinned, as plain text.

    An axis is written `layer1/kernel[3]`, counted in the view of the leaf (`TensorAxes.shape`);
    `[3 at 0:8]` is a part of one, and `qkv/kernel{:, 0:64}[1]` an axis of the view of a block.
    Leaves of one layer share an entry, `norm/(bias, scale, mean*)[0]`, with a star behind running
    statistics. A group on two axes of one tensor is marked `quadratic`.

    Args:
        symmetry: the symmetry.
        width: the columns to fill at most.
        groups: the most groups to print.
        leaves: the most places to print for each group.
        pins: the most pinned axes to print for each reason.

    Returns:
        The table, in ASCII where the names are, without colours or a line break at its end.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.symmetry.spec import Symmetry
        >>> params = {"in": {"kernel": jnp.ones((3, 8))}, "out": {"kernel": jnp.ones((8, 2))}}
        >>> axes = {"in/kernel": (None, "h"), "out/kernel": ("h", None)}
        >>> print(table(Symmetry.from_axes(axes, params)))
        group  units  leaves
        h          8  in/kernel[1], out/kernel[0]
        <BLANKLINE>
        1 group, 8 units, 2 leaves: 10^4.6 orders of the units compute the same
    """
    parts = [_group_table(symmetry, width, groups, leaves)] if symmetry.sizes else []
    if symmetry.pinned:
        parts.append(_pin_table(symmetry, width, pins))
    return "\n\n".join([*parts, _totals(symmetry)])


def _group_table(symmetry: "Symmetry", width: int, most: int, leaves: int) -> str:
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    rows.add_column("group", overflow="fold", max_width=max(width // 3, 12))
    rows.add_column("units", justify="right")
    quadratic = _quadratic(symmetry)
    noted = any(symmetry.contexts(group) or group in quadratic for group in symmetry.groups)
    if noted:
        rows.add_column("", overflow="fold", max_width=max(width // 4, 10))
    rows.add_column("leaves", overflow="fold")
    for group, _ in symmetry.sizes[:most]:
        contexts = symmetry.contexts(group)
        marks = [f"in each of {', '.join(contexts)}"] if contexts else []
        marks += ["quadratic"] if group in quadratic else []
        cells = [group, " x ".join(map(str, symmetry.shape(group)))]
        cells += ["; ".join(marks)] if noted else []
        cells.append(_listing(_places(symmetry, group), leaves))
        rows.add_row(*map(Text, cells))
    more = len(symmetry.sizes) - most
    return _render(rows, width) + (f"\n... and {more} more groups" if more > 0 else "")


def _pin_table(symmetry: "Symmetry", width: int, most: int) -> str:
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    rows.add_column("pinned because", overflow="fold", max_width=max(width // 3, 14))
    rows.add_column("axes", overflow="fold")
    reasons: dict[str, list[str]] = {}
    for name, size, reason in symmetry.pinned:
        reasons.setdefault(reason, []).append(f"{name} ({size})")
    for reason, names in reasons.items():
        rows.add_row(Text(reason), Text(_listing(names, most)))
    return _render(rows, width)


def _totals(symmetry: "Symmetry") -> str:
    pinned = _count(len(symmetry.pinned), "pinned axis", "pinned axes")
    if not symmetry.sizes:
        return f"nothing can be permuted: no groups, {pinned}"
    carried = {tensor.path for tensor in symmetry.tensors if any(tensor.groups)}
    shapes = [symmetry.shape(group) for group in symmetry.groups]
    orders = sum(math.prod(shape[:-1]) * math.lgamma(shape[-1] + 1) for shape in shapes)
    counts = [
        _count(len(symmetry.sizes), "group", "groups"),
        _count(sum(math.prod(shape) for shape in shapes), "unit", "units"),
        _count(len(carried), "leaf", "leaves"),
    ]
    if symmetry.pinned:
        counts.append(pinned)
    power = orders / math.log(10)
    digits = 0 if power >= 100 else 1
    return f"{', '.join(counts)}: 10^{power:.{digits}f} orders of the units compute the same"


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"


def _listing(names: Sequence[str], most: int) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... and {len(names) - most} more"


def _quadratic(symmetry: "Symmetry") -> set[str]:
    return {
        group
        for tensor in symmetry.tensors
        for group in tensor.groups
        if group is not None and tensor.groups.count(group) > 1
    }


def _places(symmetry: "Symmetry", group: str) -> list[str]:
    """Write where a group lies, first what computes it; leaves of one layer and axis together."""
    names: dict[tuple[str, str], dict[str, None]] = {}

    def computes(tensor: "TensorAxes") -> bool:
        return tensor.output is not None and tensor.groups[tensor.output] == group

    for tensor in sorted(symmetry.tensors, key=computes, reverse=True):
        axes = [axis for axis, each in enumerate(tensor.groups) if each == group]
        if axes:
            layer, slash, name = _short(tensor).rpartition("/")
            names.setdefault((layer + slash, _where(tensor, axes)), {})[
                name + "*" * tensor.statistic
            ] = None
    return [
        f"{layer}{next(iter(found)) if len(found) == 1 else '(' + ', '.join(found) + ')'}{where}"
        for (layer, where), found in names.items()
    ]


def _where(tensor: "TensorAxes", axes: Sequence[int]) -> str:
    """Write some axes of a view, and the part of the leaf that they lie in."""
    if tensor.index and len(tensor.index) != len(tensor.shape):
        block = "{" + ", ".join(map(_slices, tensor.index)) + "}"
        return f"{block}[{', '.join(map(str, axes))}]"
    runs = [tensor.index[axis] if tensor.index else None for axis in axes]
    written = [
        str(axis) if part is None else f"{axis} at {_slices(part)}"
        for axis, part in zip(axes, runs, strict=True)
    ]
    return f"[{', '.join(written)}]"


def _short(tensor: "TensorAxes") -> str:
    """Drop the collection of Flax Linen, which the star of statistics tells anyway."""
    for collection in ("params/", "batch_stats/"):
        if tensor.path.startswith(collection):
            return tensor.path[len(collection) :]
    return tensor.path


def _slices(runs: "Iterable[Run] | None") -> str:
    if runs is None:
        return ":"
    written = [
        f"{start}:{start + count * step}" + (f":{step}" if step != 1 else "")
        for start, count, step in runs
    ]
    return "+".join(written[:_RUNS] + ["..."] * (len(written) > _RUNS))


def _render(rows: Table, width: int) -> str:
    # Told to be no terminal, rich writes no colours, whatever the environment says.
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(rows)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().split("\n"))
