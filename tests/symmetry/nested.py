"""Networks whose groups are indexed by one another, or lie in blocks of leaves, by hand."""

import jax.numpy as jnp
import numpy as np

from jaxfuse.symmetry import Symmetry, TensorAxes


def table(groups, leaves, over=(), pinned=None):
    """Return the shapes of the leaves, and their symmetry.

    Every leaf is `(shape, blocks)`, every block `(axes, index)` or just `axes`: names of groups or
    of pinned axes, numbers for other pinned axes, and `("edge", n)` for n taps.
    """
    pinned = pinned or {}
    sizes = {**groups, **pinned}
    tensors = []
    for path, (_, *blocks) in leaves.items():
        for block in blocks:
            axes, index = block if isinstance(block, tuple) else (block, ())
            shape, names, pins, edge = [], [], [], []
            for position, axis in enumerate(axes):
                if isinstance(axis, tuple):
                    edge.append(position)
                size = axis[1] if isinstance(axis, tuple) else sizes.get(axis, axis)
                shape.append(size)
                names.append(axis if axis in groups else None)
                pins.append(axis if axis in pinned else None if axis in groups else "free")
            computes = len(axes) > 1 and names[-1] and "bias" not in path
            tensors.append(
                TensorAxes(
                    path,
                    tuple(shape),
                    tuple(names),
                    tuple(edge),
                    output=len(axes) - 1 if computes else None,
                    pins=tuple(pins),
                    index=index,
                )
            )
    symmetry = Symmetry(
        tuple(groups.items()),
        tuple(tensors),
        tuple((group, tuple(contexts)) for group, contexts in dict(over).items()),
        tuple((name, size, "stacked") for name, size in pinned.items()),
    )
    return {path: shape for path, (shape, *_) in leaves.items()}, symmetry


def columns(start, count, before=1):
    """Return the index of a block of `count` entries of the last of `before + 1` axes."""
    return (*(None,) * before, ((start, count, 1),))


def attention(*, e=10, h=3, qk=4, vo=5, f=9):
    """A residual block: attention with fused Q, K and V, then an MLP."""
    n, m = h * qk, h * vo
    return table(
        {"e": e, "h": h, "qk": qk, "vo": vo, "f": f},
        {
            "in": ((6, e), [6, "e"]),
            "qkv": (
                (e, 2 * n + m),
                (["e", "h", "qk"], columns(0, n)),
                (["e", "h", "qk"], columns(n, n)),
                (["e", "h", "vo"], columns(2 * n, m)),
            ),
            "qkv_bias": (
                (2 * n + m,),
                (["h", "qk"], columns(0, n, 0)),
                (["h", "qk"], columns(n, n, 0)),
                (["h", "vo"], columns(2 * n, m, 0)),
            ),
            "proj": ((m, e), ["h", "vo", "e"]),
            "up": ((e, f), ["e", "f"]),
            "down": ((f, e), ["f", "e"]),
            "out": ((e, 3), ["e", 3]),
        },
        {"qk": ["h"], "vo": ["h"]},
    )


def grouped_query(*, e=12, kv=3, g=2, qk=4, vo=3):
    """Attention whose keys and values serve several queries each."""
    return table(
        {"e": e, "kv": kv, "g": g, "qk": qk, "vo": vo},
        {
            "in": ((6, e), [6, "e"]),
            "q": ((e, kv * g * qk), ["e", "kv", "g", "qk"]),
            "k": ((e, kv * qk), ["e", "kv", "qk"]),
            "v": ((e, kv * vo), ["e", "kv", "vo"]),
            "o": ((kv * g * vo, e), ["kv", "g", "vo", "e"]),
            "out": ((e, 3), ["e", 3]),
        },
        {"g": ["kv"], "qk": ["kv"], "vo": ["kv"]},
    )


def grouped_convolution(*, g=3, sizes=(4, 3, 4)):
    """A convolution, two grouped ones, and an output; the groups of channels stay together."""
    a, b, c = sizes
    return table(
        {"g": g, "a": a, "b": b, "c": c},
        {
            "conv0": ((3, 3, 2, g * a), [("edge", 3), ("edge", 3), 2, "g", "a"]),
            "bias0": ((g * a,), ["g", "a"]),
            "conv1": ((3, 3, a, g * b), [("edge", 3), ("edge", 3), "a", "g", "b"]),
            "bias1": ((g * b,), ["g", "b"]),
            "conv2": ((3, 3, b, g * c), [("edge", 3), ("edge", 3), "b", "g", "c"]),
            "out": ((g * c, 3), ["g", "c", 3]),
        },
        {"a": ["g"], "b": ["g"], "c": ["g"]},
    )


def experts(*, r=8, x=4, f=5):
    """A residual mixture of experts with its router."""
    return table(
        {"r": r, "x": x, "f": f},
        {
            "in": ((6, r), [6, "r"]),
            "router": ((r, x), ["r", "x"]),
            "up": ((x, r, f), ["x", "r", "f"]),
            "bias": ((x, f), ["x", "f"]),
            "down": ((x, f, r), ["x", "f", "r"]),
            "out": ((r, 3), ["r", 3]),
        },
        {"f": ["x"]},
    )


def stacked(*, layers=3, r=7, f=6):
    """A residual MLP whose layers are stacked for a scan."""
    return table(
        {"r": r, "f": f},
        {
            "in": ((6, r), [6, "r"]),
            "scale": ((layers, r), ["layer", "r"]),
            "up": ((layers, r, f), ["layer", "r", "f"]),
            "bias": ((layers, f), ["layer", "f"]),
            "down": ((layers, f, r), ["layer", "f", "r"]),
            "out": ((r, 3), ["r", 3]),
        },
        {"f": ["layer"]},
        {"layer": layers},
    )


def stacked_heads(*, layers=2, r=7, h=3, d=4):
    """Attention in a stack of layers: heads for each layer, units for each head of each layer."""
    return table(
        {"r": r, "h": h, "d": d},
        {
            "in": ((6, r), [6, "r"]),
            "v": ((layers, r, h * d), ["layer", "r", "h", "d"]),
            "o": ((h, layers, d, r), ["h", "layer", "d", "r"]),
            "gate": ((layers, r, h), ["layer", "r", "h"]),
            "out": ((r, 3), ["r", 3]),
        },
        {"h": ["layer"], "d": ["layer", "h"]},
        {"layer": layers},
    )


def direct_sum(*, a=5, b=4):
    """Two layers side by side; one of them lies in two runs of the next kernel."""
    whole = a + b
    first = ((0, 2, 1), (2 + b, a - 2, 1))
    return table(
        {"a": a, "b": b, "c": 6},
        {
            "left": ((4, a), [4, "a"]),
            "both": ((4, 2 * b), ([4, "b"], columns(0, b)), ([4, "b"], columns(b, b))),
            "join": (
                (whole, 6),
                (["a", "c"], (first, None)),
                (["b", "c"], (((2, b, 1),), None)),
            ),
            "out": ((6, 3), ["c", 3]),
        },
    )


def recurrent(*, h=6):
    """An LSTM: four gates in one kernel, whose rows and columns are the same units."""
    gates = range(4)
    return table(
        {"h": h},
        {
            "x": ((3, 4 * h), *((([3, "h"]), columns(g * h, h)) for g in gates)),
            "h": ((h, 4 * h), *(((["h", "h"]), columns(g * h, h)) for g in gates)),
            "b": ((4 * h,), *(((["h"]), columns(g * h, h, 0)) for g in gates)),
            "out": ((h, 2), ["h", 2]),
        },
    )


def three_levels(*, x=2, h=2, d=3):
    """Experts, each with heads of its own, each with units of its own."""
    return table(
        {"x": x, "h": h, "d": d},
        {
            "in": ((5, x * h * d), [5, "x", "h", "d"]),
            "gate": ((5, x, h), [5, "x", "h"]),
            "route": ((5, x), [5, "x"]),
            "out": ((x, h, d, 3), ["x", "h", "d", 3]),
        },
        {"h": ["x"], "d": ["x", "h"]},
    )


def block_recurrent(*, h=3, d=4):
    """A recurrent kernel of one block per head: the units of a head on two axes."""
    return table(
        {"h": h, "d": d},
        {
            "x": ((4, h * d), [4, "h", "d"]),
            "h": ((h, d, d), ["h", "d", "d"]),
            "out": ((h * d, 3), ["h", "d", 3]),
        },
        {"d": ["h"]},
    )


NETWORKS = {
    "attention": attention,
    "grouped_query": grouped_query,
    "grouped_convolution": grouped_convolution,
    "experts": experts,
    "stacked": stacked,
    "stacked_heads": stacked_heads,
    "direct_sum": direct_sum,
    "recurrent": recurrent,
    "three_levels": three_levels,
    "block_recurrent": block_recurrent,
}


def draw(shapes, seed, dtype=np.float32):
    """Return random weights."""
    rng = np.random.default_rng(seed)
    return {path: np.asarray(rng.standard_normal(shape), dtype) for path, shape in shapes.items()}


def on_device(params):
    """Return the weights as JAX arrays."""
    return {path: jnp.asarray(leaf) for path, leaf in params.items()}
