"""What a group is indexed by: one order per head only where the heads never meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.symmetry.trace.cases import Case, check, table

silu = jax.nn.silu

CASES = (
    Case(
        "rows-compared-with-each-other",
        lambda p, x: x * silu(p["t"] @ p["t"].T).sum(),
        {"t": (4, 5)},
        ((2,),),
        {"t": 4, "t#2": 5},
    ),
    Case(
        "rows-compared-and-read",
        lambda p, x: (jnp.square(p["t"] @ p["t"].T - jnp.eye(4)).sum(), x @ p["t"].T),
        {"t": (4, 5)},
        ((2, 5),),
        {},
    ),
    Case(
        "rows-mixed-by-the-input",
        lambda p, x: silu(p["t"] + x @ p["t"]).sum(-1),
        {"t": (4, 5)},
        ((4, 4),),
        {"t": 5},
    ),
    Case(
        "rows-mixed-by-a-parameter",
        lambda p, x: x * silu(p["t"] + p["m"] @ p["t"]).sum(),
        {"t": (4, 5), "m": (4, 4)},
        ((2,),),
        {"m": 4, "t": 5},
    ),
    Case(
        "rows-attending-to-each-other",
        lambda p, x: x * silu(p["t"] + jax.nn.softmax(p["t"] @ p["t"].T) @ p["t"]).sum(),
        {"t": (4, 5)},
        ((2,),),
        {"t": 4, "t#2": 5},
    ),
    Case(
        "rows-that-never-meet",
        lambda p, x: x * silu(p["t"]).sum(),
        {"t": (4, 5)},
        ((2,),),
        None,
    ),
    Case(
        "rows-summed-before",
        lambda p, x: x * silu(p["t"].sum(0)).sum(),
        {"t": (4, 5)},
        ((2,),),
        {"t.blocks": 5, "t": 4},
        {"t": ("t.blocks",)},
    ),
    Case(
        "rows-shifted-against-each-other",
        lambda p, x: x * silu(p["t"] * jnp.roll(p["t"], 1, 0)).sum(),
        {"t": (4, 5)},
        ((2,),),
        None,
    ),
    Case(
        "rows-accumulated",
        lambda p, x: x * silu(jnp.cumsum(p["t"], 0)).sum(),
        {"t": (4, 5)},
        ((2,),),
        {"t": 5},
        complete=False,
    ),
    Case(
        "rows-sorted",
        lambda p, x: x * silu(jnp.sort(p["t"], 0) * jnp.arange(4.0)[:, None]).sum(),
        {"t": (4, 5)},
        ((2,),),
        None,
    ),
    Case(
        "rows-accumulated-onto-themselves",
        lambda p, x: x * silu(p["t"] + jnp.cumsum(p["t"], 0)).sum(),
        {"t": (4, 5)},
        ((2,),),
        {"t": 5},
        complete=False,
    ),
    Case(
        "rows-turned-round-onto-themselves",
        lambda p, x: x * silu(p["t"] + p["t"][::-1]).sum(),
        {"t": (4, 5)},
        ((2,),),
        {"t": 5},
        complete=False,
    ),
    Case(
        "rows-sorted-onto-themselves",
        lambda p, x: x * silu(p["t"] + jnp.sort(p["t"], 0)).sum(),
        {"t": (4, 5)},
        ((2,),),
        None,
        complete=False,
    ),
    Case(
        "rows-pooled-onto-themselves",
        lambda p, x: (
            x
            * silu(
                p["t"]
                + lax.reduce_window(
                    p["t"], jnp.asarray(0, p["t"].dtype), lax.add, (3, 1), (1, 1), "SAME"
                )
            ).sum()
        ),
        {"t": (4, 5)},
        ((2,),),
        {"t": 5},
        complete=False,
    ),
    Case(
        "rows-next-to-each-other",
        lambda p, x: x * silu(p["t"][1:] * p["t"][:-1]).sum(),
        {"t": (4, 5)},
        ((2,),),
        {"t": 5},
        complete=False,
    ),
    Case(
        "rows-from-an-input-on",
        lambda p, x, i: x * silu(lax.dynamic_slice_in_dim(p["t"], i, 3) + p["t"][:3]).sum(),
        {"t": (4, 5)},
        (
            (2,),
            np.array(1),
        ),
        {"t": 5},
        complete=False,
    ),
    Case(
        "rows-shifted-every-round",
        lambda p, x: (
            x
            * silu(lax.fori_loop(0, 3, lambda i, h: silu(jnp.roll(h, 1, 0)) + p["t"], p["t"])).sum()
        ),
        {"t": (4, 5)},
        ((2,),),
        None,
    ),
    Case(
        "rows-shifted-onto-others",
        lambda p, x: x * silu(jnp.concatenate([p["t"][-1:], p["t"][:-1]]) + p["s"]).sum(),
        {"t": (4, 5), "s": (4, 5)},
        ((2,),),
        None,
    ),
    Case(
        "rows-convolved",
        lambda p, x: (
            x
            * silu(
                lax.conv_general_dilated(
                    p["t"][None], p["k"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
                )
                + p["t"][None]
            ).sum()
        ),
        {"t": (4, 5), "k": (3, 5, 5)},
        ((2,),),
        {"k": 5},
        complete=False,
    ),
    Case(
        "rows-gathered-by-an-input",
        lambda p, x, i: x * silu(p["t"] * p["t"][i]).sum(-1),
        {"t": (4, 5)},
        ((4,), np.array([1, 2, 3, 0])),
        {"t": 5},
    ),
    Case(
        "rows-carried-through-a-scan",
        lambda p, x: lax.scan(lambda c, row: (row, (c * row).sum()), jnp.ones(5), p["t"])[1] * x,
        {"t": (4, 5)},
        ((4,),),
        {"t": 5},
    ),
    Case(
        "matrices-transposed",
        lambda p, x: x * silu(p["t"] * p["t"].T).sum(),
        {"t": (4, 4)},
        ((2,),),
        {"t": 4},
    ),
    Case(
        "queries-that-are-learnt",
        lambda p, x: (
            silu(jax.nn.softmax(p["q"] @ (x @ p["k"]).T, -1) @ (x @ p["v"]) + p["q"]).sum(0)
            @ p["o"]
        ),
        {"q": (4, 6), "k": (3, 6), "v": (3, 6), "o": (6, 2)},
        ((5, 3),),
        {"k": 6, "q": 4},
    ),
    Case(
        "per-class-prototypes",
        lambda p, x: -((silu(x @ p["a"])[:, None] - p["c"][None]) ** 2).sum(-1),
        {"a": (3, 6), "c": (4, 6)},
        ((5, 3),),
        {"a": 6},
    ),
)


@pytest.mark.parametrize(**table(*CASES))
def test_contexts(case):
    check(case)
