"""The order of the kernels in a chain, by shapes and by the numbers in their names."""

import itertools
import re
from collections.abc import Iterator, Sequence

from jaxfuse.symmetry.chain.layers import REMEDY, Kernel, natural_order, stem_of
from jaxfuse.symmetry.tree import leaf_name

_SEARCH_LIMIT = 20_000


def order_kernels(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Find the one order in which every kernel's inputs are the outputs of the one before."""
    if not kernels:
        raise ValueError(f"the parameter tree holds no kernel, only vectors. {REMEDY}")
    _refuse_blocks(kernels)
    _refuse_recurrence(kernels)
    kernels = sorted(kernels, key=lambda kernel: natural_order(kernel.layer))
    budget = [_SEARCH_LIMIT]
    search = _paths((), tuple(kernels), budget)
    longest: tuple[Kernel, ...] = ()
    found: list[tuple[Kernel, ...]] = []
    for path in search:
        longest = max(longest, path, key=len)
        if len(path) == len(kernels):
            found.append(path)
        if len(found) == 2:
            break
    if len(found) < 2 and budget[0] <= 0:
        raise ValueError(
            f"the order of the {len(kernels)} layers, leaf {kernels[0].path!r} among them, is "
            f"ambiguous: {_SEARCH_LIMIT} steps of the search left some orders untried. {REMEDY}"
        )
    if not found:
        left = next(kernel for kernel in kernels if kernel not in longest)
        after = f" after {longest[-1].path!r} {longest[-1].shape}" if longest else ""
        raise ValueError(
            f"leaf {left.path!r} of shape {left.shape} could not be placed{after}: no order of the "
            f"layers lets every output feed the next input. {REMEDY}"
        )
    if len(found) == 2:
        at = next(i for i, (p, q) in enumerate(zip(*found, strict=True)) if p != q)
        raise ValueError(
            f"leaves {found[0][at].path!r} and {found[1][at].path!r} could both come at place {at} "
            f"of the chain, and neither shapes nor numbers in the names tell. {REMEDY}"
        )
    return found[0]


def _refuse_blocks(kernels: Sequence[Kernel]) -> None:
    """Refuse numbered blocks of several maps: they may hold skips that no tree shows."""
    parts = [kernel.layer.split("/") for kernel in kernels]
    levels = zip(*parts, strict=False)
    shared = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    blocks: dict[str, str] = {}
    for kernel, part in zip(kernels, parts, strict=True):
        for depth in range(shared + 1, len(part)):
            block = "/".join(part[:depth])
            if not part[depth - 1][-1:].isdigit():
                continue
            if block in blocks:
                raise ValueError(
                    f"leaves {blocks[block]!r} and {kernel.path!r} lie in one block {block!r}: a "
                    f"block may have a skip connection, which a parameter tree does not show. "
                    f"{REMEDY}"
                )
            blocks[block] = kernel.path


def _refuse_recurrence(kernels: Sequence[Kernel]) -> None:
    """Refuse recurrent cells: their two kernels feed one sum, and not each other."""
    inputs: set[tuple[str, ...]] = set()
    hidden: dict[tuple[str, ...], str] = {}
    named = None
    for kernel in kernels:
        *container, last = re.split(r"[/.]", kernel.layer)
        if re.match(r"recurrent_kernel$|weight_hh", leaf_name(kernel.path)):
            named = kernel.path
        elif match := re.fullmatch(r"(|.*_)([ih])|([ih])([a-z])", last):
            prefix, role, gate_role, gate = match.groups()
            cell = (*container, prefix or "", gate or "")
            if (role or gate_role) == "i":
                inputs.add(cell)
            else:
                hidden[cell] = kernel.path
    named = named or next((path for cell, path in hidden.items() if cell in inputs), None)
    if named is not None:
        raise ValueError(
            f"leaf {named!r} belongs to a recurrent cell by its name: its outputs come back as "
            f"its inputs, so that it is no step of a chain. {REMEDY}"
        )


def _paths(
    path: tuple[Kernel, ...], rest: tuple[Kernel, ...], budget: list[int]
) -> Iterator[tuple[Kernel, ...]]:
    """Yield every path that can't be continued; kernels of one stem come in order of number."""
    budget[0] -= 1
    stems: set[str] = set()
    extended = False
    for index, kernel in enumerate(rest):
        stem = stem_of(kernel.layer)
        if stem in stems:
            continue
        stems.add(stem)
        if budget[0] > 0 and (not path or path[-1].feeds(kernel)):
            extended = True
            yield from _paths((*path, kernel), rest[:index] + rest[index + 1 :], budget)
    if not extended:
        yield path
