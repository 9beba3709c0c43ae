"""Small networks put together at random: what is found never changes the function."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxfuse.symmetry import infer_symmetry
from tests.symmetry.trace.cases import normal, prove

BATCH = 3


class Step(NamedTuple):
    """One operation on the hidden units.

    Attributes:
        shapes: of its parameters, from the number of units.
        apply: `apply(h, leaves)`.
    """

    shapes: Callable[[int], tuple[tuple[int, ...], ...]]
    apply: Callable[[Any, Any], Any]


def _none(n):
    return ()


def normalised(h):
    return h * lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-3)


def heads(h, leaves):
    y = h.reshape(BATCH, 2, -1)
    y = jnp.einsum("bhd,bgd->bhg", y, jnp.tanh(y)) @ y
    return (y * leaves[0]).reshape(h.shape)


def interleaved(h, leaves):
    return jnp.stack([h[:, ::2] * leaves[0], jnp.tanh(h[:, 1::2])], -1).reshape(h.shape)


def joined_by_slices(h, leaves):
    half = h.shape[-1] // 2
    return jnp.concatenate([h[:, half:], jnp.tanh(h[:, :half]) * leaves[0]], -1)


def recurrent(h, leaves):
    return lax.scan(lambda state, row: (jnp.tanh(row + state @ leaves[0]), None), h, leaves[1])[0]


MENU = {
    "dense": Step(lambda n: ((n, 8),), lambda h, w: h @ w[0]),
    "narrow": Step(lambda n: ((n, 4),), lambda h, w: h @ w[0]),
    "residual": Step(lambda n: ((n, 6), (6, n)), lambda h, w: h + jnp.tanh(h @ w[0]) @ w[1]),
    "tied": Step(lambda n: ((n, 6),), lambda h, w: h + jnp.tanh(h @ w[0]) @ w[0].T),
    "square": Step(lambda n: ((n, n),), lambda h, w: jnp.tanh(h) + h @ w[0]),
    "bias": Step(lambda n: ((1, n),), lambda h, w: jnp.tanh(h + w[0])),
    "wider": Step(lambda n: ((n, 4),), lambda h, w: jnp.concatenate([h, jnp.tanh(h @ w[0])], -1)),
    "gate": Step(lambda n: ((n, 16),), lambda h, w: jax.nn.glu(h @ w[0])),
    "norm": Step(lambda n: ((1, n),), lambda h, w: normalised(h) * w[0]),
    "blocks": Step(
        lambda n: ((1, 2, 1),), lambda h, w: (h.reshape(BATCH, 2, -1) * w[0]).reshape(h.shape)
    ),
    "inner-blocks": Step(
        lambda n: ((1, 1, 2),), lambda h, w: (h.reshape(BATCH, -1, 2) * w[0]).reshape(h.shape)
    ),
    "block-norm": Step(_none, lambda h, w: normalised(h.reshape(BATCH, 2, -1)).reshape(h.shape)),
    "heads": Step(lambda n: ((1, 1, n // 2),), heads),
    "maximum": Step(lambda n: ((n, 16),), lambda h, w: (h @ w[0]).reshape(BATCH, 8, 2).max(-1)),
    "padded": Step(lambda n: ((n, n + 4),), lambda h, w: jnp.pad(h, ((0, 0), (2, 2))) + h @ w[0]),
    "cut": Step(
        lambda n: ((n, n - 2),), lambda h, w: jnp.pad(h[:, 1:-1] + h @ w[0], ((0, 0), (0, 2)))
    ),
    "halves": Step(lambda n: ((1, n // 2),), joined_by_slices),
    "interleaved": Step(lambda n: ((1, n // 2),), interleaved),
    "first": Step(_none, lambda h, w: h * jnp.tanh(h[:, :1])),
    "softmax": Step(_none, lambda h, w: jax.nn.softmax(h)),
    "tiled": Step(lambda n: ((n, 4),), lambda h, w: jnp.tile(h @ w[0], (1, 2))),
    "loop": Step(lambda n: ((n, n), (3, 1, n)), recurrent),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A chain of operations between two dense layers."""

    steps: tuple[str, ...]

    def params(self) -> dict[str, Any]:
        """Draw parameters, following the number of units from step to step."""
        leaves: dict[str, Any] = {"in": normal(5, 8, seed=99)}
        h = jnp.ones((BATCH, 8))
        for number, name in enumerate(self.steps):
            shapes = MENU[name].shapes(h.shape[-1])
            own = [normal(*shape, seed=10 * number + i) for i, shape in enumerate(shapes)]
            leaves |= {f"{number}-{name}/{i}": leaf for i, leaf in enumerate(own)}
            h = MENU[name].apply(h, own)
        return leaves | {"out": normal(h.shape[-1], 2, seed=98)}

    def __call__(self, params: dict[str, Any], x: Any) -> Any:
        h = x @ params["in"]
        for number, name in enumerate(self.steps):
            count = len(MENU[name].shapes(h.shape[-1]))
            h = MENU[name].apply(h, [params[f"{number}-{name}/{i}"] for i in range(count)])
        return jnp.tanh(h) @ params["out"]


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.lists(st.sampled_from(sorted(MENU)), min_size=1, max_size=4).map(tuple).map(Network))
def test_random_networks(network):
    params, x = network.params(), normal(BATCH, 5, seed=97)
    prove(infer_symmetry(network, params, x), network, params, (x,))
