"""What the machine can do, measured in the run whose rows are given as shares of it."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.bench.timing import Call, timed

_REPEATS = 5


@dataclass(frozen=True)
class Work:
    """How much a call has to do, counted from its sizes.

    Attributes:
        flops: floating-point additions and multiplications.
        exps: exponentials.
        bytes: memory read and written.
    """

    flops: float = 0.0
    exps: float = 0.0
    bytes: float = 0.0

    def rates(self, seconds: float) -> dict[str, float]:
        """Return what was done per second, of what was counted."""
        counts = dataclasses.asdict(self)
        return {name: count / seconds for name, count in counts.items() if count}


def measure_ceilings(*, quick: bool) -> dict[str, float]:
    """Return the best rates of this run: `flops`, `exps`, `bytes`, on accelerators `bf16_flops`.

    A float32 matrix product at the precision that jaxfuse asks for, exponentials of an array, and
    a sum of two arrays, each as one XLA program on the default device.

    Args:
        quick: smaller arrays, which show a little less.
    """
    on_host = jnp.zeros(1).devices().pop().platform == "cpu"
    n = (512 if quick else 1536) if on_host else (2048 if quick else 8192)
    count = (2**20 if quick else 2**22) if on_host else 2**27
    ceilings = {"flops": _product_rate(jnp.ones((n, n), jnp.float32))}
    if not on_host:
        ceilings["bf16_flops"] = _product_rate(jnp.ones((n, n), jnp.bfloat16))
    # Numbers between 0 and 1: a constant array could be folded, and a large argument overflows.
    numbers = jnp.linspace(0.0, 1.0, count, dtype=jnp.float32)
    # A piece that stays in the cache, so that memory is not what is measured.
    piece = numbers[: 2**18] if on_host else numbers
    exponentials = jax.jit(jnp.exp)
    ceilings["exps"] = piece.size / _best(lambda: exponentials(piece))
    wide = jnp.tile(numbers, 8 if on_host else 1)
    other = jax.block_until_ready(wide[::-1])
    add = jax.jit(jnp.add)
    ceilings["bytes"] = 3 * wide.nbytes / _best(lambda: add(wide, other))
    return ceilings


def _product_rate(matrix: jax.Array) -> float:
    highest = matrix.dtype == jnp.float32
    precision = jax.lax.Precision.HIGHEST if highest else jax.lax.Precision.DEFAULT
    product = jax.jit(lambda m: jnp.dot(m, m, precision=precision))
    return 2 * len(matrix) ** 3 / _best(lambda: product(matrix))


def _best(call: Call) -> float:
    timed(call)
    return min(timed(call, 3)[1] for _ in range(_REPEATS))
