"""Programs under `shard_map` on eight host devices; run by `test_sharding` in its own process."""

import os

if __name__ == "__main__":
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"

import functools
import sys
import traceback
import warnings

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxfuse.symmetry import UnknownPrimitiveWarning
from tests.symmetry.trace.cases import Case, check

silu = jax.nn.silu
WHOLE, COLUMNS, ROWS = P(), P(None, "m"), P("m", None)


@functools.cache
def mesh(*sizes):
    names = ("m",) if len(sizes) == 1 else ("d", "m")
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def sharded(device, specs=(WHOLE, COLUMNS, ROWS), out=WHOLE, sizes=(4,), names="ab", **options):
    """Run a function of the input and the named leaves on every device."""

    def network(p, x):
        function = jax.shard_map(
            device, mesh=mesh(*sizes), in_specs=specs, out_specs=out, **options
        )
        return function(x, *(p[name] for name in names))

    return network


def experts(x, gates, up, down):
    h = silu(jnp.einsum("nd,edf->enf", x, up))
    return lax.psum(jnp.einsum("enf,efo,ne->no", h, down, gates), "m")


def constrained(p, x):
    h = lax.with_sharding_constraint(x @ p["a"], NamedSharding(mesh(4), COLUMNS))
    return silu(h) @ p["b"]


def shift(h):
    return lax.ppermute(h, "m", [(i, (i + 1) % 4) for i in range(4)])


DENSE = {"a": (3, 8), "b": (8, 2)}
WIDE = {"a": (3, 16), "b": (16, 2)}
X = ((4, 3),)
BOTH = (P(), P(None, ("d", "m")), P(("d", "m"), None))
DEVICES = {"a.blocks": 4, "a": 2}
PER_DEVICE = {"a": ("a.blocks",)}


def found():
    """Cases whose groups are known."""
    layer = sharded(lambda x, a, b: lax.psum(silu(x @ a) @ b, "m"))
    return (
        Case("tensor-parallel", layer, DENSE, X, DEVICES, PER_DEVICE),
        Case(
            "tensor-and-data-parallel",
            sharded(
                lambda x, a, b: lax.psum(silu(x @ a) @ b, "m"),
                (P("d"), COLUMNS, ROWS),
                P("d"),
                (2, 4),
            ),
            DENSE,
            X,
            DEVICES,
            PER_DEVICE,
        ),
        Case(
            "means-and-maxima",
            sharded(
                lambda x, a, b: lax.pmean(silu(x @ a) @ b, "m") + lax.pmax(silu(x @ a) @ b, "m")
            ),
            DENSE,
            X,
            DEVICES,
            PER_DEVICE,
        ),
        Case(
            "data-parallel",
            sharded(lambda x, a, b: silu(x @ a) @ b, (P("m"), P(), P()), P("m")),
            DENSE,
            X,
            {"a": 8},
        ),
        Case(
            "mean-of-the-batch",
            sharded(
                lambda x, a, b: (x @ a - lax.pmean((x @ a).mean(0), "m")[None]) @ b,
                (P("m"), P(), P()),
                P("m"),
            ),
            DENSE,
            X,
            {"a": 8},
        ),
        Case(
            "one-device",
            sharded(lambda x, a, b: lax.psum(silu(x @ a) @ b, "m"), sizes=(1,)),
            DENSE,
            X,
            {"a": 8},
        ),
        Case("constraint", constrained, DENSE, X, {"a": 8}),
        Case(
            "expert-parallel",
            lambda p, x: sharded(experts, (P(), COLUMNS, P("m"), P("m")), names="rud")(
                {**p, "r": jax.nn.softmax(x @ p["r"])}, x
            ),
            {"r": (5, 4), "u": (4, 5, 3), "d": (4, 3, 2)},
            ((6, 5),),
            {"r.blocks": 4, "u": 3},
            {"u": ("r.blocks",)},
        ),
    )


def proven():
    """Cases in which the devices are no longer alike, or not all of them meet."""
    two = sharded(lambda x, a, b: lax.psum(silu(x @ a) @ b, ("d", "m")), BOTH, sizes=(2, 4))
    partial = sharded(
        lambda x, a, b: lax.psum(lax.psum(silu(x @ a) @ b, "d") ** 2, "m"), BOTH, sizes=(2, 4)
    )
    return (
        Case("two-axes-of-devices", two, WIDE, X, None),
        Case("summed-over-one-axis-then-the-other", partial, WIDE, X, None),
        Case(
            "numbered-devices",
            sharded(lambda x, a, b: lax.psum((silu(x @ a) @ b) * lax.axis_index("m"), "m")),
            DENSE,
            X,
            None,
        ),
        Case(
            "first-device",
            sharded(
                lambda x, a, b: lax.psum(
                    jnp.where(lax.axis_index("m") == 0, 2.0, 1.0) * (silu(x @ a) @ b), "m"
                )
            ),
            DENSE,
            X,
            None,
        ),
        Case(
            "gathered",
            sharded(
                lambda x, a, b: lax.all_gather(silu(x @ a), "m", axis=1, tiled=True) @ b,
                (P(), COLUMNS, P()),
                check_vma=False,
            ),
            DENSE,
            X,
            None,
        ),
        Case(
            "sent-on",
            sharded(lambda x, a, b: lax.psum(shift(silu(x @ a)) @ b, "m")),
            DENSE,
            X,
            None,
        ),
        Case(
            "sent-on-and-added",
            sharded(lambda x, a, b: lax.psum((x @ a + shift(x @ a)) @ b, "m")),
            DENSE,
            X,
            None,
        ),
        Case(
            "exchanged",
            sharded(
                lambda x, a, b: lax.psum(
                    lax.all_to_all(silu(x @ a), "m", 1, 1, tiled=True) @ b, "m"
                )
            ),
            WIDE,
            X,
            None,
        ),
        Case(
            "sum-scattered",
            sharded(
                lambda x, a, b: lax.psum_scatter(
                    silu(x @ a) @ b, "m", scatter_dimension=1, tiled=True
                ),
                out=COLUMNS,
            ),
            {"a": (3, 8), "b": (8, 4)},
            X,
            None,
        ),
        Case(
            "largest-of-every-device",
            sharded(
                lambda x, a: jnp.argmax(x @ a, -1)[:, None], (P(), COLUMNS), COLUMNS, names="a"
            ),
            {"a": (3, 8)},
            X,
            None,
        ),
        Case(
            "weights-less-their-sum",
            sharded(
                lambda x, a: lax.psum((silu(a - lax.psum(a, "m"))).sum(), "m") * x,
                (P(), ROWS),
                names="a",
            ),
            {"a": (4, 3)},
            X,
            None,
        ),
    )


def main() -> int:
    """Check every case, print those that fail, and return their number."""
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", UnknownPrimitiveWarning)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert jax.device_count() == 8
    failed = 0
    for case in (*found(), *proven()):
        try:
            check(case)
        except Exception:
            failed += 1
            sys.stdout.write(f"\n{case.name}\n{traceback.format_exc(limit=-2)}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
