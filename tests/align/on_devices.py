"""Checks that need eight host devices; run by `test_devices` in their own process."""

import os

if __name__ == "__main__":
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"

import functools
import sys
import traceback
import warnings

import chex
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxfuse import (
    CoordinateAscent,
    Linear,
    MergeMany,
    UniverseFrankWolfe,
    align_many,
    align_pairs,
    align_params,
    build_many,
    infer_chain,
    shard_networks,
)
from tests.align.networks import batch, item

SOLVER = CoordinateAscent()
# Each compiles in a few seconds, the default of many networks in five times that.
MANY = (MergeMany(SOLVER, start=None), UniverseFrankWolfe(polish=None))


def mesh(*sizes, names=("pairs", "other"), kind=AxisType.Auto):
    return jax.make_mesh(sizes, names[: len(sizes)], (kind,) * len(sizes))


def check_pairs(count, **options):
    """Compare with the loop of single calls."""
    a, b = batch(count), batch(count, seed=1)
    found = jax.device_get(align_pairs(a, b, method=SOLVER, **options))
    for index in range(count):
        want = align_params(item(a, index), item(b, index), method=SOLVER)
        chex.assert_trees_all_equal(item(found.permutations, index), want.permutations)
        chex.assert_trees_all_equal(item(found.params, index), want.params)
        np.testing.assert_allclose(found.objective[index], want.objective, rtol=1e-6)
        assert found.status[index] == want.status


def a_pair_for_each():
    check_pairs(8)
    found = align_pairs(batch(8), batch(8, seed=1), method=SOLVER)
    assert {shard.data.shape[0] for shard in found.params[0].addressable_shards} == {1}
    assert len(found.params[0].sharding.device_set) == 8


def more_pairs_than_devices():
    check_pairs(16, mesh=mesh(4, 2))


def pairs_that_the_devices_do_not_divide():
    check_pairs(3, mesh=mesh(8))
    check_pairs(11)


def explicit_axes():
    explicit = mesh(8, kind=AxisType.Explicit)
    check_pairs(8, mesh=explicit)
    with pytest.raises(ValueError, match="5 pairs are no multiple of the 8 devices along 'pairs'"):
        align_pairs(batch(5), batch(5), mesh=explicit)


def keys_are_those_of_the_pairs():
    method, key = CoordinateAscent(order="random"), jax.random.key(3)
    a, b = batch(5), batch(5, seed=1)
    found = align_pairs(a, b, method=method, key=key, mesh=mesh(4))
    for index, own in enumerate(jax.random.split(key, 5)):
        want = align_params(item(a, index), item(b, index), method=method, key=own)
        chex.assert_trees_all_equal(item(found.permutations, index), want.permutations)


def under_jit():
    everywhere = mesh(8)
    trees = jax.device_put((batch(8), batch(8, 1)), NamedSharding(everywhere, P("pairs")))
    align = functools.partial(align_pairs, mesh=everywhere, method=SOLVER)
    compiled = jax.jit(align).lower(*trees).compile()
    text = compiled.as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all"))
    want = align_pairs(*trees, mesh=mesh(1), method=SOLVER)
    chex.assert_trees_all_equal(
        jax.device_get(compiled(*trees).permutations), jax.device_get(want.permutations)
    )


def networks_over_devices():
    stacked = batch(8)
    sharded = jax.device_put(stacked, NamedSharding(mesh(8), P("pairs")))
    for method in MANY:

        @jax.jit
        def align(stacked, method=method):
            found = align_many([item(stacked, k) for k in range(8)], method=method)
            return found.params, found.permutations, found.status

        chex.assert_trees_all_equal(
            jax.device_get(align(sharded)),
            jax.device_get(align(stacked)),
            custom_message=repr(method),
        )


def features_over_devices():
    networks = [item(batch(8), k) for k in range(8)]
    problem = build_many(networks, infer_chain(networks[0]), Linear())
    sharded = shard_networks(problem, NamedSharding(mesh(8), P("pairs")))
    for leaf in jax.tree.leaves((sharded.units, sharded.blocks)):
        assert leaf.addressable_shards[3].data.shape == (1, *leaf.shape[1:])
    solve = jax.jit(UniverseFrankWolfe(polish=None).solve_many)
    want, got = solve.lower(problem).compile(), solve.lower(sharded).compile()
    chex.assert_trees_all_equal(
        jax.device_get(got(sharded).orders), jax.device_get(want(problem).orders)
    )
    assert got.cost_analysis()["flops"] < want.cost_analysis()["flops"] / 2
    problem = build_many(networks[:5], infer_chain(networks[0]), Linear())
    with pytest.raises(ValueError, match="5 networks are no multiple of the devices"):
        shard_networks(problem, NamedSharding(mesh(8), P("pairs")))


CHECKS = (
    a_pair_for_each,
    more_pairs_than_devices,
    pairs_that_the_devices_do_not_divide,
    explicit_axes,
    keys_are_those_of_the_pairs,
    under_jit,
    networks_over_devices,
    features_over_devices,
)


def main() -> int:
    """Run every check, print those that fail, and return their number."""
    warnings.simplefilter("error")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert jax.device_count() == 8
    failed = 0
    for check in CHECKS:
        try:
            check()
        except Exception:
            failed += 1
            sys.stdout.write(f"\n{check.__name__}\n{traceback.format_exc(limit=-3)}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
