"""The space of every per-unit vector in a chain, by container, position, number or size."""

from collections.abc import Sequence

from jaxfuse.symmetry.chain.layers import REMEDY, Kernel, Vector, natural_order, numbers_of, stem_of


def place_vectors(
    vectors: Sequence[Vector], kernels: tuple[Kernel, ...]
) -> tuple[tuple[Vector, int], ...]:
    """Find the space of every vector: 0 the input, k the output of the k-th kernel."""
    own = {kernel.layer: space for space, kernel in enumerate(kernels, start=1)}
    sizes = [kernels[0].fan_in, *(kernel.fan_out for kernel in kernels)]
    placed = [(vector, own[vector.layer]) for vector in vectors if vector.layer in own]
    for vector, space in placed:
        if vector.size != sizes[space]:
            raise ValueError(
                f"leaf {vector.path!r} has {vector.size} entries beside a kernel with "
                f"{sizes[space]} outputs. {REMEDY}"
            )
    free: dict[str, list[Vector]] = {}
    for vector in vectors:
        if vector.layer not in own:
            free.setdefault(vector.layer, []).append(vector)
    stems: dict[str, list[str]] = {}
    for layer in sorted(free, key=natural_order):
        stems.setdefault(stem_of(layer), []).append(layer)
    in_one_list = {stem_of(layer) for layer in [*own, *free]}
    for stem, layers in stems.items():
        members = [free[layer] for layer in layers]
        if len(in_one_list) == 1:
            spaces = [
                sum(numbers_of(k.layer) < numbers_of(name) for k in kernels) for name in layers
            ]
        else:
            spaces = _spaces_by_number(layers, members, kernels)
            spaces = spaces or _spaces_by_size([group[0].size for group in members], sizes)
        if spaces is None or any(
            vector.size != sizes[space]
            for group, space in zip(members, spaces, strict=True)
            for vector in group
        ):
            first = members[0][0]
            raise ValueError(
                f"leaf {first.path!r} with {first.size} entries could not be placed: the layers "
                f"named {stem!r} fit the chain's spaces of {sizes} units in no way or in several. "
                f"{REMEDY}"
            )
        placed += [(v, s) for group, s in zip(members, spaces, strict=True) for v in group]
    return tuple(placed)


def _spaces_by_number(
    layers: Sequence[str], members: Sequence[Sequence[Vector]], kernels: tuple[Kernel, ...]
) -> list[int] | None:
    """Pair layers with kernels of equal number, where one stem of kernels has just as many."""
    candidates = []
    for stem in {stem_of(kernel.layer) for kernel in kernels}:
        spaces = {
            numbers_of(kernel.layer): space
            for space, kernel in enumerate(kernels, start=1)
            if stem_of(kernel.layer) == stem
        }
        hidden = {number: space for number, space in spaces.items() if space < len(kernels)}
        for choice in {tuple(spaces.items()), tuple(hidden.items())}:
            paired = [dict(choice).get(numbers_of(layer)) for layer in layers]
            fits = len(choice) == len(layers) and all(
                space is not None and kernels[space - 1].fan_out == group[0].size
                for space, group in zip(paired, members, strict=True)
            )
            if fits:
                candidates.append([space for space in paired if space is not None])
    return candidates[0] if len(candidates) == 1 else None


def _spaces_by_size(needed: Sequence[int], sizes: Sequence[int]) -> list[int] | None:
    """Find the only increasing choice of spaces with the needed sizes, if there is only one.

    Every choice lies between the leftmost and the rightmost, so it is the only one where they meet.
    """
    count = len(sizes)
    first = _leftmost(needed, sizes)
    last = _leftmost(needed[::-1], sizes[::-1])
    if first is None or last is None:
        return None
    return first if first == [count - 1 - space for space in reversed(last)] else None


def _leftmost(needed: Sequence[int], sizes: Sequence[int]) -> list[int] | None:
    """Find each needed size in turn at the first place after the one before."""
    spaces: list[int] = []
    for size in needed:
        begin = spaces[-1] + 1 if spaces else 0
        space = next((s for s in range(begin, len(sizes)) if sizes[s] == size), None)
        if space is None:
            return None
        spaces.append(space)
    return spaces
