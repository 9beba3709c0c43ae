"""Every method by name: what `method=` takes, and the table of the documentation."""

from typing import Literal, NamedTuple

from jaxfuse.correspondence import Method
from jaxfuse.many.problem import ManySolver
from jaxfuse.matching import (
    CoordinateAscent,
    FrankWolfe,
    GraduatedAssignment,
    Portfolio,
    Solver,
)

AnyMethod = Solver | ManySolver | Method


class Entry(NamedTuple):
    """A method and what its users ask first.

    Attributes:
        method: an instance with its default settings.
        paper: where it comes from.
        data: whether it needs a batch of inputs: "no", "may" (uses one where there is one),
            "inputs", or "targets" (uses labels where there are some).
        finds: "permutations" or "maps" (which allow different widths and merged units).
        many: how it takes more than two networks: "jointly", or "to the first".
        widths: whether the networks may differ in width.
        differentiable: what gradients pass through.
        cost: of one step, for K networks of L tensors `[d, d]`, S samples.
    """

    method: AnyMethod
    paper: str
    data: Literal["no", "may", "inputs", "targets"]
    finds: Literal["permutations", "maps"]
    many: Literal["jointly", "to the first"]
    widths: bool
    differentiable: str
    cost: str


_P, _FIRST = "permutations", "to the first"

METHODS: dict[str, Entry] = {
    "portfolio": Entry(
        Portfolio(), "the best of the next two", "may", _P, _FIRST, False, "no", "K L d^3"
    ),
    "frank_wolfe": Entry(
        FrankWolfe(), "C2M3, NeurIPS 2024", "may", _P, _FIRST, False, "no", "K L d^3"
    ),
    "graduated_assignment": Entry(
        GraduatedAssignment(), "GAMF, ICML 2022", "may", _P, _FIRST, False, "no", "K L d^3"
    ),
    "coordinate_ascent": Entry(
        CoordinateAscent(), "Git Re-Basin, ICLR 2023", "may", _P, _FIRST, False, "no", "K L d^3"
    ),
}


def method_table() -> str:
    """Return the methods as a Markdown table: what each needs, gives and costs.

    Examples:
        >>> print(method_table().splitlines()[0][:20])
        | method | paper | d
    """
    head = ("method", "paper", "data", "finds", "many networks", "widths", "gradients", "cost")
    rows = [head, ("---",) * len(head)]
    for name, entry in METHODS.items():
        rows.append(
            (
                f"`{name}`",
                entry.paper,
                {"may": "weights, and activations where given"}.get(entry.data, entry.data),
                entry.finds,
                entry.many,
                "any" if entry.widths else "one",
                entry.differentiable,
                entry.cost,
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
