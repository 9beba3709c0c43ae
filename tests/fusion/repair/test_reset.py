import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfuse.fusion.repair import LeastSquares, Merger, RepairActivations, ResetStatistics
from jaxfuse.models import create, functional
from jaxfuse.symmetry.tree import named_leaves


def test_batch_normalisation_is_as_in_training_mode():
    module = create("resnet20", input_shape=(8, 8, 3), classes=4, width=0.25, key=jax.random.key(0))
    apply_fn, params = functional(module)
    x = jax.random.normal(jax.random.key(1), (12, 8, 8, 3)) + 0.5
    merger = Merger(params, (params,), [1.0], None, apply_fn, (x,))  # pyright: ignore
    reset = ResetStatistics().repair(merger)
    module.train()
    want = module(x)
    np.testing.assert_allclose(apply_fn(reset, x), want, rtol=1e-4, atol=1e-4)
    assert not np.allclose(apply_fn(params, x), want, atol=1e-2)
    # Weights stay, statistics move.
    old, new = named_leaves(params), named_leaves(reset)
    moved = {path.rsplit("/", 1)[-1] for path in old if not np.array_equal(old[path], new[path])}
    assert moved == {"mean", "var"}


def dense_norm(params, x):
    norm = params["norm"]
    x = x @ params["kernel"]
    x = (x - norm["running_mean"][None]) / jnp.sqrt(norm["running_var"] + 1e-5)[None]
    return jax.nn.relu(x * norm["weight"][None] + norm["bias"][None]) @ params["head"]


def networks():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 6), "head": (6, 2)}
    for _ in range(2):
        tree = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
        norm = {"running_mean": jnp.zeros(6), "running_var": jnp.ones(6)}
        yield {**tree, "norm": {**norm, "weight": jnp.ones(6), "bias": jnp.zeros(6)}}


def test_every_repair_with_data_resets_statistics():
    from jaxfuse import average, infer_symmetry

    parents = tuple(networks())
    x = jnp.asarray(np.random.default_rng(1).normal(size=(50, 4)) * 2 + 1, jnp.float32)
    symmetry = infer_symmetry(dense_norm, parents[0], x)
    merger = Merger(average(parents), parents, [0.5, 0.5], symmetry, dense_norm, (x,))
    products = x @ merger.fused["kernel"]
    for repair in (ResetStatistics(), RepairActivations(), LeastSquares(ridge=1e-6)):
        norm = repair.repair(merger)["norm"]
        np.testing.assert_allclose(norm["running_mean"], products.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(norm["running_var"], products.var(0), rtol=1e-4)
    closed = RepairActivations(closed_form=True).repair(merger)["norm"]
    mixed = sum(0.5 * (x @ parent["kernel"]) for parent in parents)
    np.testing.assert_allclose(closed["running_var"], mixed.var(0), rtol=1e-4)


def test_a_network_without_statistics_stays():
    linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    apply_fn, params = functional(linear)
    merger = Merger(params, (params,), [1.0], None, apply_fn, (jnp.ones((2, 3)),))  # pyright: ignore
    chex.assert_trees_all_equal(ResetStatistics().repair(merger), params)
