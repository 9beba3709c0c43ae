"""What a computation says of itself: one code that passes through jit, with its message."""

import enum

import jax
import jax.core
import jax.numpy as jnp


class Status(enum.IntEnum):
    """Outcome of a computation, as a number that passes through `jit`, `vmap` and `scan`.

    Results hold it as an int32 array. `Status(int(code)).message` says what it means and what to
    do next.

    Examples:
        >>> Status(2)
        <Status.NOT_CONVERGED: 2>
        >>> print(Status.NOT_CONVERGED.message)
        stopped at the iteration limit before the tolerance was met: raise the limit, the
        tolerance or the temperature
    """

    CONVERGED = 0
    ALREADY_ALIGNED = 1
    NOT_CONVERGED = 2
    NON_FINITE = 3

    @property
    def message(self) -> str:
        """Say what the status means and what the caller can change."""
        return _MESSAGES[self]

    def array(self) -> jax.Array:
        """Return the status as an int32 scalar."""
        return jnp.int32(self.value)


_MESSAGES = {
    Status.CONVERGED: "converged",
    Status.ALREADY_ALIGNED: (
        "no matching beats the identity: the inputs are in the same order already"
    ),
    Status.NOT_CONVERGED: (
        "stopped at the iteration limit before the tolerance was met: raise the limit, the "
        "tolerance or the temperature"
    ),
    Status.NON_FINITE: (
        "the input holds NaN or infinity, so nothing was matched: look for a diverged training "
        "run or a broken checkpoint"
    ),
}


def is_concrete(*arrays: object) -> bool:
    """Tell whether no array is traced, so that values may be looked at and errors raised."""
    return not any(isinstance(array, jax.core.Tracer) for array in arrays)
