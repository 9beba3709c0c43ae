"""What every method promises: a planted copy, jit, vmap, and the same answer in every process."""

import dataclasses
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

from jaxfuse import (
    CoordinateAscent,
    MergeMany,
    MultiStart,
    Portfolio,
    SinkhornRebasin,
    StraightThrough,
    align_many,
    align_params,
    fuse,
)
from jaxfuse.many.gamf_kernels import RowGAMF
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


def reorder(params, seed):
    """Return a network with its units in other orders."""
    rng = np.random.default_rng(seed)
    orders = {g: jnp.asarray(rng.permutation(n), jnp.int32) for g, n in SYMMETRY.groups.items()}
    return permute(params, SYMMETRY, orders)


def worn(params, seed):
    """Return a noisy copy."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: leaf + 0.05 * jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params
    )


def lighten(part):
    """Put coordinate ascent where a method holds a portfolio, which takes thrice to compile."""
    if isinstance(part, Portfolio):
        return CoordinateAscent()
    if not dataclasses.is_dataclass(part):
        return part
    held = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return dataclasses.replace(part, **{name: lighten(each) for name, each in held.items()})


# The portfolio itself stays as it is; what is built around one is tested around a cheaper solver.
TESTED = {
    name: entry.method if name == "portfolio" else lighten(entry.method)
    for name, entry in METHODS.items()
}


def options(name):
    entry = METHODS[name]
    chosen = {"method": TESTED[name], "symmetry": SYMMETRY, "key": jax.random.key(0)}
    if entry.data in ("inputs", "targets"):
        chosen |= {"apply_fn": apply_fn, "inputs": INPUTS}
        chosen |= {"targets": TARGETS} if entry.data == "targets" else {}
    return chosen


def align(name, a, b, key):
    return align_params(a, b, **{**options(name), "key": key})


def fused_outputs(networks, found):
    """Return what the bare average of aligned networks computes."""
    fused = fuse(networks, alignment=found, symmetry=SYMMETRY, repair=None)
    return apply_fn(fused, INPUTS)


# A task loss may be as low at another matching, so those are judged by their own tests.
PLANTED = [name for name, entry in METHODS.items() if entry.data != "targets"]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_copy_fuses_to_the_original(name):
    params, _, copy = planted(1)
    found = align(name, params, copy, jax.random.key(0))
    assert found.seconds > 0
    assert np.isfinite(found.objective)
    assert int(found.status) == Status.CONVERGED
    want = apply_fn(params, INPUTS)
    np.testing.assert_allclose(fused_outputs([params, copy], found), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", PLANTED)
def test_a_network_and_itself_stay_as_they_are(name):
    params = network(1)
    found = align(name, params, params, jax.random.key(0))
    if found.maps is None:
        assert int(found.status) == Status.ALREADY_ALIGNED
        jax.tree.map(np.testing.assert_array_equal, found.params, params)
    got, want = fused_outputs([params, params], found), apply_fn(params, INPUTS)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PLANTED)
def test_the_order_of_a_client_changes_nothing(name):
    """Not a copy, so that the matching is none that any method must find."""
    params = network(1)
    client = worn(params, 2)
    pairs = [[params, client], [params, reorder(client, 3)]]
    one, other = (fused_outputs(pair, align(name, *pair, jax.random.key(0))) for pair in pairs)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


# Every method is batched once: here, or in its own room (matchers there by `check_planted`).
BATCHED_ELSEWHERE = {
    "frank_wolfe": "matching/test_solvers.py::test_vmap_equals_the_loop",
    "multi_start": "matching/test_multi_start.py::test_loop_and_vmap",
    "simulated_annealing": "matching/test_simulated_annealing.py",
    "spectral": "matching/test_spectral.py",
    "reweighted_random_walk": "matching/test_reweighted_random_walk.py",
    "integer_projected_fixed_point": "matching/test_integer_projected_fixed_point.py",
    "path_following": "matching/test_path_following.py",
    "merge_many": "many/test_schemes.py::test_vmap_equals_a_loop_of_bare_calls",
    "annealed_merge_many": "many/test_schemes.py, as merge_many of other settings",
    "universe_frank_wolfe": "many/test_schemes.py::test_vmap_equals_a_loop_of_bare_calls",
    "gamf": "many/test_schemes.py::test_vmap_equals_a_loop_of_bare_calls",
    "gamf_blurred": "many/test_gamf.py::test_published_forms_are_the_same_bare_and_batched",
    "gamf_row": "many/test_gamf.py::test_published_forms_are_the_same_bare_and_batched",
    "all_to_one": "many/test_schemes.py::test_vmap_equals_a_loop_of_bare_calls",
    "hierarchical": "many/test_schemes.py::test_vmap_equals_a_loop_of_bare_calls",
    "sinkhorn_rebasin": "learned/test_sinkhorn_rebasin.py (align_all)",
    "sinkhorn_rebasin_midpoint": "learned/test_sinkhorn_rebasin.py (align_all)",
    "ot_fusion": "transport/test_ot_fusion.py::test_vmap_is_a_loop",
    "cca": "transport/test_cca.py::test_jit_and_vmap_agree_with_a_loop",
    "procrustes": "transport/test_procrustes.py::test_vmap_is_a_loop",
}
# One of each kind, by what it looks at and returns, and all that are batched nowhere else.
BATCHED = [name for name in METHODS if name not in BATCHED_ELSEWHERE]


@pytest.mark.parametrize("name", BATCHED)
def test_jit_of_vmap_is_a_loop_of_bare_calls(name):
    pairs = [planted(1)[::2], (network(2), network(5))]
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    batched = jax.jit(jax.vmap(functools.partial(align, name)))(*stacked, keys)
    for index, (pair, key) in enumerate(zip(pairs, keys, strict=True)):
        single = align(name, *pair, key)
        got = jax.tree.map(lambda leaf, i=index: leaf[i], batched)
        np.testing.assert_allclose(got.objective, single.objective, rtol=1e-3, atol=1e-3)
        assert got.status == single.status
        for group, order in single.permutations.items():
            np.testing.assert_array_equal(got.permutations[group], order)
        # Under jit maps keep common units that nobody has; they compute nothing.
        outputs, want = (apply_fn(found.params, INPUTS) for found in (got, single))
        np.testing.assert_allclose(outputs, want, rtol=1e-3, atol=1e-3)


MANY = [name for name, entry in METHODS.items() if entry.many == "jointly"] + ["all_to_one"]


@pytest.mark.parametrize("name", MANY)
def test_many_copies_fuse_to_the_original_in_whatever_order_they_are(name):
    params = network(1)
    copies = [worn(params, seed) for seed in (2, 3)]
    ends = []
    for networks in (
        [params, reorder(params, 4), reorder(params, 5)],
        [params, *copies],
        [reorder(params, 6), copies[0], reorder(copies[1], 7)],
    ):
        found = align_many(networks, **options(name))
        assert int(found.status) in (Status.CONVERGED, Status.ALREADY_ALIGNED)
        ends.append(fused_outputs(networks, found))
    exact, plain, moved = ends
    np.testing.assert_allclose(exact, apply_fn(params, INPUTS), rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(plain, moved, rtol=1e-3, atol=1e-3)


# Every way to draw at random, on the cheapest problem that draws so.
RANDOM = {
    "multi_start": MultiStart(CoordinateAscent(), starts=3),
    "simulated_annealing": METHODS["simulated_annealing"].method,
    "pfnm": METHODS["pfnm"].method,
}
RANDOM |= {
    "coordinate_ascent, random order": CoordinateAscent(order="random"),
    "merge_many, random order": MergeMany(start=None, order="random"),
    "gamf_row, random start": RowGAMF(start="random", max_sweeps=2),
    "straight_through, batches": StraightThrough(steps=3, batch_size=30),
    "sinkhorn_rebasin, random point": SinkhornRebasin("random_point", steps=3, batch_size=30),
}
# Whose way, if not its end, must be another with another key.
WANDERING = ["simulated_annealing", *list(RANDOM)[-3:]]
_PROCESS = """
from tests.test_methods import RANDOM, told
print("told:", [told(name, 5) for name in RANDOM])
"""


def told(name, seed):
    """Say what a method finds, and on which way, to four digits."""
    found = align_params(
        network(3),
        network(4),
        method=RANDOM[name],
        symmetry=SYMMETRY,
        key=jax.random.key(seed),
        **({"apply_fn": apply_fn, "inputs": INPUTS} if _looks_at_data(RANDOM[name]) else {}),
    )
    orders = {group: order.tolist() for group, order in sorted(found.permutations.items())}
    sums = (found.objective, jnp.sum(found.trace), *map(jnp.sum, jax.tree.leaves(found.params)))
    return orders, [f"{float(each):.4g}" for each in sums]


def _looks_at_data(method):
    return isinstance(method, SinkhornRebasin | StraightThrough)


def test_the_same_key_gives_the_same_answer_in_every_process():
    other = subprocess.run(
        [sys.executable, "-c", _PROCESS],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"told: {[told(name, 5) for name in RANDOM]}" in other.stdout
    for name in WANDERING:
        assert told(name, 5)[1] != told(name, 6)[1], name


def test_the_documented_table_is_that_of_the_registry():
    assert method_table() in (ROOT / "METHODS.md").read_text()
