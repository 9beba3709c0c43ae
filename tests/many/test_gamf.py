"""GAMF's schedule, and the scores of the published forms, against float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxfuse.many import GAMF
from jaxfuse.many.annealing import Annealing
from jaxfuse.many.edge_stack import EdgeStack, stack_edges
from jaxfuse.many.gamf_kernels import BlurredGAMF, KernelScores, RowGAMF
from jaxfuse.networks import Networks
from jaxfuse.status import Status
from jaxfuse.symmetry import Symmetry, TensorAxes
from tests.many.instances import (
    AXES,
    SIZES,
    build,
    independent,
    one_layer,
    planted,
    soft_matchings,
    solve,
)
from tests.oracles import many as oracle
from tests.symmetry.nested import NETWORKS, draw, on_device

KERNELS = {"blurred": BlurredGAMF(gamma=0.4), "row": RowGAMF(sinkhorn_iterations=50)}
STREAM = 2**10


@functools.partial(jax.jit, static_argnums=0)
def align(method, networks, key=None):
    """Match, compiled once per method and shape."""
    return method.align(networks, key)


def networks_of(networks, symmetry):
    return Networks(tuple(networks), (symmetry,) * len(networks))


@pytest.mark.parametrize("kernel", KERNELS)
def test_scores_of_the_published_forms(kernel):
    networks, symmetry = independent(1, count=3)
    soft = soft_matchings(0, count=3)
    stack = stack_edges(networks_of(networks, symmetry), "GAMF")
    sigma = {path: 2.0 + index for index, path in enumerate(AXES)}
    edges = stack.edges
    if kernel == "blurred":
        paths = [tensor.path for tensor in symmetry.tensors if any(tensor.groups)]
        edges = tuple(e / np.sqrt(sigma[p]) for e, p in zip(edges, paths, strict=True))
    scorer = KernelScores(EdgeStack(edges, stack.links, stack.sizes), kernel, STREAM, "auto")
    # Rows are the universe there, units in the oracle.
    matchings = {g: jnp.asarray(u).swapaxes(1, 2) for g, u in soft.items()}
    own = {g: u[1] for g, u in matchings.items()}
    got = jax.jit(lambda m, o: scorer.scores(m, jnp.int32(1), o, tuple(SIZES)))(matchings, own)
    want = oracle.gamf_scores(networks, AXES, soft, 1, kernel, sigma)
    for group in SIZES:
        np.testing.assert_allclose(got[group].T, want[group], rtol=1e-4)
    value = sum(
        np.vdot(oracle.gamf_scores(networks, AXES, soft, k, kernel, sigma)[g], soft[g][k])
        for k in range(3)
        for g in SIZES
    )
    np.testing.assert_allclose(scorer.value(matchings), value / 2, rtol=1e-4)


def test_bandwidth_is_relative_to_the_edges():
    """Weights of another scale are matched alike."""
    networks, symmetry, right = planted(3, count=3)
    small = [{path: 1e-3 * leaf for path, leaf in network.items()} for network in networks]
    one, other = (align(KERNELS["blurred"], networks_of(n, symmetry)) for n in (networks, small))
    np.testing.assert_allclose(one.objective, other.objective, rtol=1e-4)
    for group, order in right.items():
        np.testing.assert_array_equal(one.orders[group], order)
        np.testing.assert_array_equal(other.orders[group], order)


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_networks_of_one_layer_are_one_assignment(kernel):
    """Where no tensor joins two groups the scores do not move: the whole run is known."""
    for seed in range(3):
        networks, symmetry = one_layer(seed, count=2)
        a, b = (np.float64(each["w"]) for each in networks)
        apart = a[:, :, None] - b[:, None, :]
        if kernel == "row":
            scores = np.exp(-(np.sum(apart**4, axis=0) ** 0.25) / 2)
        else:
            sigma = 32.0 * np.median(np.square(a.reshape(-1, 1) - b.reshape(1, -1)))
            scores = np.exp(-(apart**2) / sigma).sum(axis=0)
        found = align(KERNELS[kernel], networks_of(networks, symmetry))
        rows, columns = linear_sum_assignment(scores, maximize=True)
        np.testing.assert_array_equal(found.orders["h"][1], columns)
        if kernel == "blurred":
            np.testing.assert_allclose(found.objective, scores[rows, columns].sum(), rtol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_published_forms_are_the_same_bare_and_batched(kernel):
    both = [networks_of(*one_layer(seed, count=2)) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *both)
    together = jax.jit(jax.vmap(KERNELS[kernel].align))(stacked)
    for index, networks in enumerate(both):
        bare = KERNELS[kernel].align(networks)
        np.testing.assert_array_equal(together.orders["h"][index], bare.orders["h"])
        np.testing.assert_allclose(together.trace[index], bare.trace, rtol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_published_forms_find_planted_orders(kernel):
    networks, symmetry, right = planted(3, count=3)
    found = align(KERNELS[kernel], networks_of(networks, symmetry))
    assert found.status == Status.CONVERGED
    assert np.isfinite(found.trace).all()
    for group, order in right.items():
        np.testing.assert_array_equal(found.orders[group], order)
    same = align(KERNELS[kernel], networks_of([networks[0]] * 3, symmetry))
    assert same.status == Status.ALREADY_ALIGNED
    for order in jax.device_get(same.orders).values():
        np.testing.assert_array_equal(order, np.broadcast_to(order[0], order.shape))


def test_random_start_needs_a_key_and_repeats_with_it():
    method = RowGAMF(sinkhorn_iterations=50, start="random")
    networks = networks_of(*one_layer(0))
    with pytest.raises(ValueError, match="needs key="):
        method.align(networks)
    first, again, other = (align(method, networks, jax.random.key(seed)) for seed in (1, 1, 2))
    assert first.objective == again.objective
    assert np.any(first.trace != other.trace)
    np.testing.assert_array_equal(first.orders["h"], again.orders["h"])
    np.testing.assert_array_equal(np.sort(first.orders["h"]), np.tile(np.arange(4), (3, 1)))
    np.testing.assert_array_equal(first.orders["h"][0], np.arange(4))


def test_jacobi_finds_planted_orders():
    networks, symmetry, right = planted(1)
    scheme = GAMF(update="jacobi", damping=0.3, gamma=0.5, max_sweeps=20, polish=None)
    found = solve(scheme, build(networks, symmetry))
    for group, order in right.items():
        np.testing.assert_array_equal(found.orders[group], order)
    # More than one sweep at some temperature, and none to the limit.
    count = len(scheme.temperatures)
    assert count < found.iterations < count * scheme.max_sweeps


def test_published_schedule():
    taus = RowGAMF().temperatures
    assert len(taus) == 22
    np.testing.assert_allclose(taus[[0, 1, -1]], [0.05, 0.045, 0.05 * 0.9**21], rtol=1e-5)
    assert len(Annealing(tau=1.0, gamma=0.5, tau_min=0.25).temperatures) == 3


@pytest.mark.parametrize(
    "settings",
    [{"tau": 0.01}, {"gamma": 1.0}, {"damping": 1.0}, {"update": "both"}, {"max_sweeps": 0}],
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match="got"):
        GAMF(**settings)


def test_edges_refuse_what_they_cannot_compare():
    shapes, symmetry = NETWORKS["block_recurrent"](h=2, d=2)
    nested = networks_of([on_device(draw(shapes, s)) for s in (0, 1)], symmetry)
    with pytest.raises(ValueError, match="'d' are indexed by 'h'"):
        BlurredGAMF().align(nested)
    params = {"w": jnp.ones((2, 3, 4))}
    sizes = (("a", 2), ("b", 3), ("c", 4))
    triple = Symmetry(sizes, (TensorAxes("w", (2, 3, 4), ("a", "b", "c")),))
    with pytest.raises(ValueError, match="'w' joins 3 groups"):
        RowGAMF().align(networks_of([params, params], triple))
