import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfuse.models import functional
from jaxfuse.models.zoo import ZOO
from jaxfuse.symmetry.trace.replay import Centring, Layer, Shift, replay


class Seen:
    def __init__(self):
        self.events = []

    def visit(self, event, leaves):
        self.events.append(event)


@pytest.mark.parametrize("name", ["resnet20_pad", "llama_scan", "lstm", "moe"])
def test_outputs_are_those_of_the_function(name):
    apply_fn, params = functional(ZOO[name].build(nnx.Rngs(0)))
    inputs = tuple(ZOO[name].inputs(jax.random.key(0)))
    other = jax.tree.map(lambda leaf: leaf * 1.1, params)
    run = jax.jit(lambda trees, batch: replay(apply_fn, trees, batch, Seen()))
    outputs, same = run([params, other], inputs)
    for own, tree in zip(outputs, (params, other), strict=True):
        want = jax.jit(apply_fn)(tree, *inputs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), own, want)
    assert jax.tree.structure(same[0]) == jax.tree.structure(params)


def network(params, x):
    x = x @ params["a"]
    x = (x - params["mean"][None]) * params["scale"][None] / jnp.sqrt(params["var"])[None]
    x = jax.jit(jax.nn.relu)(x)
    return jnp.einsum("io,bi->bo", params["b"], x) + params["bias"]


def params():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 4), "mean": (4,), "scale": (4,), "var": (4,), "b": (4, 2), "bias": (1, 2)}
    return {
        k: jnp.asarray(np.abs(rng.normal(size=s)) + 0.1, jnp.float32) for k, s in shapes.items()
    }


def test_layers_are_shown_in_order_with_what_follows_them():
    seen = Seen()
    replay(network, [params()], (jnp.ones((5, 3)),), seen)
    first, norm, second, bias = seen.events
    assert [type(event) for event in seen.events] == [Layer, Centring, Layer, Shift]
    assert (first.kernel.path, first.data_first) == ("a", True)
    assert (norm.mean.path, norm.mean.axes, norm.variance) == ("mean", (None, 0), "var")
    assert norm.kernel == "a"
    assert second.kernel.path == "b"
    assert bias.bias.path == "bias"


def test_what_a_visitor_changes_counts_from_there_on():
    class Double:
        def visit(self, event, leaves):
            if isinstance(event, Layer) and event.kernel.path == "a":
                leaves[0]["a"] = 2 * leaves[0]["a"]
                leaves[0]["var"] = 9 * leaves[0]["var"]

    own, x = params(), jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)
    (got,), (changed,) = replay(network, [own], (x,), Double())
    want = network({**own, "a": 2 * own["a"], "var": 9 * own["var"]}, x)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(changed["var"], 9 * own["var"])
