"""Doubles of the zoo in other libraries: they run, and their output depends on their inputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.doubles import EQUINOX, LINEN, PLAIN

DOUBLES = {
    f"{library}-{name}": double
    for library, doubles in (("linen", LINEN), ("plain", PLAIN), ("equinox", EQUINOX))
    for name, double in doubles.items()
}


@pytest.mark.parametrize("name", DOUBLES)
def test_double_runs_and_depends_on_its_inputs(name):
    apply_fn, params, inputs = DOUBLES[name].make(jax.random.key(0, impl="rbg"))
    # An Equinox module has functions among its leaves.
    run = eqx.filter_jit(apply_fn)
    output = run(params, *inputs)
    assert jnp.isfinite(output).all()
    np.testing.assert_array_equal(output, run(params, *inputs))
    changed = run(params, *(jnp.flip(x, axis=1) for x in inputs))
    assert (jnp.abs(changed - output) > 1e-5).any(axis=tuple(range(1, output.ndim))).all()


def test_there_are_doubles_of_enough_models():
    assert len(LINEN) + len(PLAIN) >= 6
    assert len(EQUINOX) >= 2
