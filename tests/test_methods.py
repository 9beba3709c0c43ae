"""What every method promises: a planted copy, jit, vmap, and the same answer in every process."""

import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import align_many, align_params, fuse
from jaxfuse.methods import METHODS, method_table
from jaxfuse.status import Status
from jaxfuse.symmetry import infer_chain, permute

ROOT = Path(__file__).parents[1]
SIZES = (6, 5, 4, 3)


def apply_fn(params, x):
    for index, layer in enumerate(params):
        x = x @ layer["kernel"] + layer["bias"][None]
        x = jax.nn.relu(x) if index < len(params) - 1 else x
    return x


def network(seed, sizes=SIZES):
    rng = np.random.default_rng(seed)
    return [
        {
            "kernel": jnp.asarray(rng.normal(size=(n, m)) * np.sqrt(2 / n), jnp.float32),
            "bias": jnp.asarray(0.5 * np.abs(rng.normal(size=m)), jnp.float32),
        }
        for n, m in itertools.pairwise(sizes)
    ]


SYMMETRY = infer_chain(network(0))
INPUTS = jnp.asarray(np.random.default_rng(9).normal(size=(120, SIZES[0])), jnp.float32)
TARGETS = jnp.argmax(apply_fn(network(0), INPUTS), axis=1)


def planted(seed):
    """Return a network, the orders, and its copy in those orders."""
    rng = np.random.default_rng(100 + seed)
    params = network(seed)
    orders = {g: jnp.asarray(rng.permutation(n), jnp.int32) for g, n in SYMMETRY.groups.items()}
    return params, orders, permute(params, SYMMETRY, orders)


def options(name):
    entry = METHODS[name]
    chosen = {"method": entry.method, "symmetry": SYMMETRY, "key": jax.random.key(0)}
    if entry.data in ("inputs", "targets"):
        chosen |= {"apply_fn": apply_fn, "inputs": INPUTS}
        chosen |= {"targets": TARGETS} if entry.data == "targets" else {}
    return chosen


def align(name, a, b, key):
    return align_params(a, b, **{**options(name), "key": key})


# A task loss may be as low at another matching, so those are judged by their own tests.
@pytest.mark.parametrize("name", [n for n, entry in METHODS.items() if entry.data != "targets"])
def test_a_planted_copy_fuses_to_the_original(name):
    params, _, copy = planted(1)
    found = align(name, params, copy, jax.random.key(0))
    assert found.seconds > 0
    assert np.isfinite(found.objective)
    assert int(found.status) in list(Status)
    fused = fuse([params, copy], alignment=found, symmetry=SYMMETRY, repair=None)
    want = apply_fn(params, INPUTS)
    np.testing.assert_allclose(apply_fn(fused, INPUTS), want, rtol=2e-2, atol=2e-2)


# One of each kind: every method has the same test of its own beside its oracle.
@pytest.mark.parametrize("name", ["frank_wolfe", "merge_many", "activation_matching", "ot_fusion"])
def test_jit_of_vmap_is_a_loop_of_bare_calls(name):
    pairs = [planted(seed)[::2] for seed in (1, 2)]
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    batched = jax.jit(jax.vmap(functools.partial(align, name)))(*stacked, keys)
    for index, (pair, key) in enumerate(zip(pairs, keys, strict=True)):
        single = align(name, *pair, key)
        got = jax.tree.map(lambda leaf, i=index: leaf[i], batched)
        np.testing.assert_allclose(got.objective, single.objective, rtol=1e-3, atol=1e-3)
        for group, order in single.permutations.items():
            np.testing.assert_array_equal(got.permutations[group], order)


@pytest.mark.parametrize("name", ["merge_many", "pfnm", "zip_it"])
def test_many_copies_fuse_to_the_original_and_order_does_not_matter(name):
    params, _, copy = planted(1)
    other = permute(params, SYMMETRY, {g: jnp.arange(n)[::-1] for g, n in SYMMETRY.groups.items()})
    want = apply_fn(params, INPUTS)
    for networks in ([params, copy, other], [copy, other, params]):
        found = align_many(networks, **options(name))
        fused = fuse(networks, alignment=found, symmetry=SYMMETRY, repair=None)
        np.testing.assert_allclose(apply_fn(fused, INPUTS), want, rtol=2e-2, atol=2e-2)


RANDOM = [name for name in METHODS if name in ("multi_start", "simulated_annealing")]
RANDOM += [name for name in METHODS if name.startswith(("sinkhorn_rebasin", "straight"))]
_PROCESS = """
import sys
from tests.test_methods import RANDOM, told
print("told:", [told(name) for name in RANDOM])
"""


def told(name):
    """Say what a method finds on a pair that no key should change from process to process."""
    found = align(name, network(3), network(4), jax.random.key(5))
    orders = {group: order.tolist() for group, order in sorted(found.permutations.items())}
    return orders, f"{float(found.objective):.4g}"


def test_the_same_key_gives_the_same_answer_in_every_process():
    other = subprocess.run(
        [sys.executable, "-c", _PROCESS],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"told: {[told(name) for name in RANDOM]}" in other.stdout


def test_the_documented_table_is_that_of_the_registry():
    assert method_table() in (ROOT / "METHODS.md").read_text()
