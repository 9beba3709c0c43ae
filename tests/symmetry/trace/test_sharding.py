"""Programs under `shard_map`: the devices index what is sharded over them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.symmetry.trace.cases import Case, check

ROOT = Path(__file__).parents[3]


def test_eight_devices():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", "tests.symmetry.trace.sharded"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_one_device():
    mesh = jax.make_mesh((1,), ("m",), axis_types=(AxisType.Auto,))

    def network(p, x):
        layer = jax.shard_map(
            lambda x, a, b: lax.psum(jnp.tanh(x @ a) @ b, "m"),
            mesh=mesh,
            in_specs=(P(), P(None, "m"), P("m", None)),
            out_specs=P(),
        )
        return layer(x, p["a"], p["b"])

    check(Case("", network, {"a": (3, 8), "b": (8, 2)}, ((4, 3),), {"a": 8}))
