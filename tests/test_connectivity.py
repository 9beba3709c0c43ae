import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import barrier, interpolate

A = {"w": jnp.array([1.0, -2.0]), "n": jnp.int32(3)}
B = {"w": jnp.array([3.0, 0.5]), "n": jnp.int32(4)}


def loss_fn(params):
    return jnp.sum(jnp.cos(3 * params["w"])) + params["w"][0] ** 2


def numpy_barriers(losses, ts):
    line = (1 - ts) * losses[0] + ts * losses[-1]
    return (losses - line).max(), losses.max() - (losses[0] + losses[-1]) / 2


@pytest.mark.parametrize(
    "ts", [25, np.int64(25), [0.0, 0.1, 0.7, 1.0]], ids=["number", "numpy_number", "positions"]
)
def test_both_definitions_match_numpy(ts):
    result = barrier(loss_fn, A, B, ts)
    positions = np.linspace(0, 1, 25) if ts == 25 else np.array(ts)
    w = [(1 - t) * np.float64(A["w"]) + t * np.float64(B["w"]) for t in positions]
    losses = np.array([np.cos(3 * x).sum() + x[0] ** 2 for x in w])
    np.testing.assert_allclose(result.ts, positions, rtol=1e-6)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-4, atol=1e-5)
    linear, midpoint = numpy_barriers(losses, positions)
    np.testing.assert_allclose(result.linear, linear, rtol=1e-4)
    np.testing.assert_allclose(result.midpoint, midpoint, rtol=1e-4)
    assert linear != pytest.approx(midpoint)


def test_definitions_differ_on_a_slope():
    result = barrier(lambda p: p["w"][0], A, B, 5)
    np.testing.assert_allclose(result.linear, 0.0, atol=1e-6)
    np.testing.assert_allclose(result.midpoint, 1.0, rtol=1e-6)


def test_same_under_jit_and_vmap():
    compiled = jax.jit(lambda a, b, ts: barrier(loss_fn, a, b, ts))(A, B, jnp.linspace(0, 1, 25))
    bare = barrier(loss_fn, A, B)
    for got, want in zip(compiled, bare, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    stacked = jax.tree.map(lambda x, y: jnp.stack([x, y]), A, B)
    linear = jax.vmap(lambda b: barrier(loss_fn, A, b).linear)(stacked)
    np.testing.assert_allclose(linear, [0.0, bare.linear], atol=1e-5)


@pytest.mark.parametrize(
    ("ts", "message"),
    [
        ([0.0, 0.5], "begin with 0 and end with 1"),
        ([0.1, 1.0], "begin with 0 and end with 1"),
        ([0.0, 0.7, 0.3, 1.0], "must rise"),
        ([0.0, np.nan, 1.0], "must rise"),
        ([0.0], "two positions or more"),
        (1, "two positions or more"),
        ([[0.0, 1.0]], "two positions or more"),
    ],
)
def test_bad_positions_are_refused(ts, message):
    with pytest.raises(ValueError, match=message):
        barrier(loss_fn, A, B, ts)


def test_ends_and_dtypes_of_the_path():
    half = {"w": jnp.array([1.0, 2.0], jnp.bfloat16)}
    other = {"w": jnp.array([3.0, 6.0], jnp.bfloat16)}
    middle = interpolate(half, other, 0.5)["w"]
    assert middle.dtype == jnp.bfloat16
    assert middle.tolist() == [2.0, 4.0]
    for t, end in ((0, A), (1, B)):
        np.testing.assert_array_equal(interpolate(A, B, t)["w"], end["w"])
    assert interpolate(A, B, 0.5)["n"] == 3


def test_derivative_along_the_path():
    slope = jax.grad(lambda t: jnp.sum(interpolate(A, B, t)["w"]))(0.3)
    np.testing.assert_allclose(slope, jnp.sum(B["w"] - A["w"]), rtol=1e-5)


def test_unlike_networks_are_refused():
    with pytest.raises(ValueError, match="leaf 'w' has shape"):
        interpolate(A, {**B, "w": jnp.ones(3)}, 0.5)


@pytest.mark.parametrize("t", [-0.5, 1.5, 2])
def test_line_goes_on_beyond_the_ends(t):
    want = (1 - t) * np.float64(A["w"]) + t * np.float64(B["w"])
    np.testing.assert_allclose(interpolate(A, B, t)["w"], want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(interpolate)(A, B, t)["w"], want, rtol=1e-6)


def test_position_is_a_scalar():
    for apply in (interpolate, jax.jit(interpolate)):
        with pytest.raises(ValueError, match=r"t must be one position, got shape \(2,\)"):
            apply(A, B, jnp.array([0.0, 1.0]))


def test_numpy_float64_is_kept():
    got = interpolate({"w": np.ones(2)}, {"w": np.full(2, 1 + 2.0**-40)}, 0.5)["w"]
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, 1 + 2.0**-41)


def test_other_leaves_come_from_the_first():
    got = interpolate({**A, "act": jax.nn.relu}, {**B, "act": jax.nn.tanh}, 0.5)
    assert got["act"] is jax.nn.relu
