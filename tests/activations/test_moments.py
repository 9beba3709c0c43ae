"""Joint moments against NumPy on the recorded arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.activations import measure_moments
from jaxfuse.networks import Networks
from jaxfuse.symmetry import infer_symmetry
from tests.activations.networks import SAMPLES, chain, chain_networks, chain_params, images
from tests.oracles.activations import relu_network
from tests.symmetry.heads import HEADS, UNITS, X, attention, attention_params

HIDDEN = [(4, 3), (5, 4), (3, 6)]
NODES = ("w0", "w1")


@pytest.fixture(scope="module")
def three():
    """Three networks of different widths; the second has a dead unit, the third two."""
    dead = [(), (1,), (0, 2)]
    params = [chain_params(k, h, dead=d) for k, (h, d) in enumerate(zip(HIDDEN, dead, strict=True))]
    return chain_networks(params, images(7, SAMPLES))


@pytest.fixture(scope="module")
def parts(three):
    """Their moments, ten samples at a time with three left over."""
    return measure_moments(three, role="input", batch_size=10)


def recorded(networks, role, layer):
    """Return the units of all networks side by side."""
    (x,), found = networks.inputs, []
    for params in networks.params:
        before, taken = relu_network(params, x)
        found.append(before[layer] if role == "output" else taken[layer + 1])
    return np.concatenate(found, axis=1)


def check(moments, networks, role):
    for layer, node in enumerate(NODES):
        samples = recorded(networks, role, layer)
        (site,) = moments.sites[node]
        assert float(site.count) == len(samples)
        np.testing.assert_allclose(site.mean, samples.mean(0), rtol=1e-5, atol=1e-5)
        covariance = np.cov(samples.T, bias=True)
        np.testing.assert_allclose(moments.covariance(node), covariance, rtol=1e-4, atol=1e-5)


def test_parts_with_a_remainder_equal_numpy(three, parts):
    check(parts, three, "input")
    assert dict(parts.widths) == {"w0": (4, 5, 3), "w1": (3, 4, 6)}


def test_the_whole_at_once_equals_numpy(three):
    check(measure_moments(three, role="output", batch_size=None), three, "output")


def test_merged_batches_equal_numpy(three):
    (x,) = three.inputs
    first, second = (
        measure_moments(dataclasses.replace(three, inputs=(part,)), role="input", batch_size=8)
        for part in (x[:7], x[7:])
    )
    check(first.merge(second), three, "input")


def test_correlation_is_zero_for_dead_units_and_numpys_for_others(three, parts):
    samples = recorded(three, "input", 0)
    alive = samples.std(0) > 0
    assert (~alive).sum() >= 3
    correlation = np.asarray(parts.correlation("w0"))
    assert not correlation[~alive].any()
    assert not correlation[:, ~alive].any()
    expected = np.corrcoef(samples[:, alive].T)
    np.testing.assert_allclose(correlation[np.ix_(alive, alive)], expected, atol=1e-5)


def test_parts_of_a_joint_matrix_belong_to_their_networks(three, parts):
    (x,) = three.inputs
    units = [relu_network(params, x)[1][1] for params in three.params]
    joint = parts.covariance("w0")
    centred = [each - each.mean(0) for each in units]
    for k, l in ((0, 1), (2, 0), (1, 1)):  # noqa: E741
        part = parts.between("w0", joint, k, l)
        expected = centred[k].T @ centred[l] / len(x)
        assert part.shape == (HIDDEN[k][0], HIDDEN[l][0])
        np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-5)


def test_under_jit_and_differentiable(three, parts):
    @jax.jit
    def both(networks):
        def total(params):
            moments = measure_moments(
                dataclasses.replace(networks, params=params), role="input", batch_size=10
            )
            return jnp.sum(jnp.square(moments.correlation("w0"))), moments

        (_, moments), slope = jax.value_and_grad(total, has_aux=True)(networks.params)
        return moments, slope

    moments, slope = both(three)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), moments, parts)
    step, w = 1e-3, three.params[0]["w0"]
    values = []
    for sign in (1, -1):
        samples = recorded(
            dataclasses.replace(
                three,
                params=({**three.params[0], "w0": w.at[0, 0].add(sign * step)}, *three.params[1:]),
            ),
            "input",
            0,
        )
        samples = samples[:, samples.std(0) > 0]
        values.append(np.sum(np.corrcoef(samples.T) ** 2))
    expected = (values[0] - values[1]) / (2 * step)
    np.testing.assert_allclose(slope[0]["w0"][0, 0], expected, rtol=1e-2, atol=1e-3)


def test_units_in_heads_are_side_by_side():
    params = attention_params()
    symmetry = infer_symmetry(attention, params, X)
    both = Networks((params, params), (symmetry, symmetry), (X,), None, attention)
    moments = measure_moments(both, batch_size=None)
    columns = np.asarray(X, np.float64) @ np.float64(params["qkv"])
    n = HEADS * UNITS
    values = columns.reshape(-1, 3, n)[:, 2]
    (node,) = [name for name, sites in moments.sites.items() if len(sites) == 1]
    assert dict(moments.widths)[node] == (n, n)
    expected = np.cov(values.T, bias=True)
    joint = moments.covariance(node)
    for k, l in ((0, 0), (0, 1)):  # noqa: E741
        np.testing.assert_allclose(moments.between(node, joint, k, l), expected, atol=1e-5)


def test_stacked_layers_are_nodes_of_their_own():
    rng = np.random.default_rng(0)
    shapes = {"in": (3, 5), "up": (2, 5, 4), "down": (2, 4, 5), "out": (5, 2)}
    params = {name: jnp.asarray(rng.standard_normal(s), jnp.float32) for name, s in shapes.items()}

    def network(p, x):
        def layer(carry, weights):
            up, down = weights
            return carry + jax.nn.relu(carry @ up) @ down, None

        return jax.lax.scan(layer, x @ p["in"], (p["up"], p["down"]))[0] @ p["out"]

    x = images(1, 9)
    symmetry = infer_symmetry(network, params, x)
    pair = Networks((params,) * 2, (symmetry,) * 2, (x,), None, network)
    moments = measure_moments(pair, role="output", batch_size=4)
    stream = np.asarray(x, np.float64) @ np.float64(params["in"])
    for entry in range(2):
        up, down = (np.float64(params[name][entry]) for name in ("up", "down"))
        before = stream @ up
        (name,) = [n for n, widths in moments.widths if n.endswith(f"[{entry}]")]
        joint = moments.covariance(name)
        expected = np.cov(before.T, bias=True)
        np.testing.assert_allclose(moments.between(name, joint, 0, 1), expected, rtol=1e-4)
        stream = stream + np.maximum(before, 0) @ down


def test_what_is_refused(three):
    without = dataclasses.replace(three, inputs=())
    with pytest.raises(ValueError, match="apply_fn= and inputs="):
        measure_moments(without)
    with pytest.raises(ValueError, match="batch_size must be 1 or more"):
        measure_moments(three, batch_size=0)
    with pytest.raises(ValueError, match="there are no examples"):
        measure_moments(dataclasses.replace(three, inputs=(jnp.zeros((0, 3)),)))
    with pytest.raises(ValueError, match="batch_size=None"):
        measure_moments(dataclasses.replace(three, inputs=(jnp.ones((4, 3)), jnp.ones(5))))


def test_inputs_that_are_no_examples_are_taken_whole():
    params = chain_params(0, (4,))
    graph = jnp.asarray(np.random.default_rng(0).standard_normal((SAMPLES, SAMPLES)), jnp.float32)

    def network(p, x, adjacency):
        return adjacency @ chain(p, adjacency @ x)

    x = images(3, SAMPLES)
    symmetry = infer_symmetry(network, params, x, graph)
    pair = Networks((params,) * 2, (symmetry,) * 2, (x, graph), None, network)
    moments = measure_moments(pair, role="output", batch_size=None)
    before, _ = relu_network(params, np.float64(graph) @ np.float64(x))
    expected = np.cov(before[0].T, bias=True)
    joint = moments.covariance("w0")
    np.testing.assert_allclose(moments.between("w0", joint, 1, 1), expected, rtol=1e-4, atol=1e-4)
