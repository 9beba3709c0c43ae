"""LSTM and GRU taggers."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfuse.models.attention import embedding as embed

Cell = Literal["lstm", "gru"]


class LSTM(nnx.Module):
    """Long short-term memory over a sequence; one kernel holds all four gates.

    Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000). The gates lie
    side by side in the order input, forget, candidate, output.

    Parameter paths: `input/kernel` `[inputs, 4 * hidden]`, `recurrent/kernel`
    `[hidden, 4 * hidden]`, `recurrent/bias` `[4 * hidden]`.

    Args:
        inputs: units of one time step.
        hidden: units of the state.
        reverse: whether time runs backwards.
        rngs: source of the initial weights.

    Examples:
        >>> layer = LSTM(3, 5, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(layer, jnp.ones((2, 7, 3))).shape
        (2, 7, 5)
    """

    def __init__(self, inputs: int, hidden: int, *, reverse: bool = False, rngs: nnx.Rngs):
        self.hidden, self.reverse = hidden, reverse
        self.input = nnx.Linear(inputs, 4 * hidden, use_bias=False, rngs=rngs)
        self.recurrent = nnx.Linear(hidden, 4 * hidden, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Run over time from a state of zeros.

        Args:
            x: sequences `[n, t, inputs]`.

        Returns:
            States `[n, t, hidden]`.
        """

        def step(carry: tuple[jax.Array, jax.Array], x: jax.Array):
            state, memory = carry
            gates = jnp.split(self.input(x) + self.recurrent(state), 4, axis=-1)
            write, keep, read = (nnx.sigmoid(gates[i]) for i in (0, 1, 3))
            memory = keep * memory + write * jnp.tanh(gates[2])
            state = read * jnp.tanh(memory)
            return (state, memory), state

        zeros = jnp.zeros((x.shape[0], self.hidden), x.dtype)
        times = jnp.swapaxes(x, 0, 1)
        _, states = jax.lax.scan(step, (zeros, zeros), times, reverse=self.reverse)
        return jnp.swapaxes(states, 0, 1)


class GRU(nnx.Module):
    """Gated recurrent units over a sequence; one kernel holds all three gates.

    Cho et al. (2014) in the variant of cuDNN and PyTorch, which resets the state after its linear
    map. The gates lie side by side in the order reset, update, candidate. Inputs are mapped for all
    time steps at once, before the loop.

    Parameter paths: `input/kernel` `[inputs, 3 * hidden]`, `recurrent/kernel`
    `[hidden, 3 * hidden]`, each with its `bias` `[3 * hidden]`.

    Args:
        inputs: units of one time step.
        hidden: units of the state.
        reverse: whether time runs backwards.
        rngs: source of the initial weights.

    Examples:
        >>> layer = GRU(3, 5, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(layer, jnp.ones((2, 7, 3))).shape
        (2, 7, 5)
    """

    def __init__(self, inputs: int, hidden: int, *, reverse: bool = False, rngs: nnx.Rngs):
        self.hidden, self.reverse = hidden, reverse
        self.input = nnx.Linear(inputs, 3 * hidden, rngs=rngs)
        self.recurrent = nnx.Linear(hidden, 3 * hidden, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Run over time from a state of zeros.

        Args:
            x: sequences `[n, t, inputs]`.

        Returns:
            States `[n, t, hidden]`.
        """
        h = self.hidden

        def step(state: jax.Array, mapped: jax.Array) -> tuple[jax.Array, jax.Array]:
            own = self.recurrent(state)
            reset = nnx.sigmoid(mapped[:, :h] + own[:, :h])
            update = nnx.sigmoid(mapped[:, h : 2 * h] + own[:, h : 2 * h])
            candidate = jnp.tanh(mapped[:, 2 * h :] + reset * own[:, 2 * h :])
            state = (1 - update) * candidate + update * state
            return state, state

        zeros = jnp.zeros((x.shape[0], h), x.dtype)
        times = jnp.swapaxes(self.input(x), 0, 1)
        _, states = jax.lax.scan(step, zeros, times, reverse=self.reverse)
        return jnp.swapaxes(states, 0, 1)


class Tagger(nnx.Module):
    """Recurrent network that gives every token of a sequence a tag.

    The defaults are the large language model of Zaremba et al. (2014), whose tags are next words:
    two LSTM layers of 1,500 units, 66.02 million weights.

    Parameter paths: `token/embedding`, `forward/0/input/kernel`, `forward/0/recurrent/kernel` ...,
    with `bidirectional` also `backward/0/...`, `head/kernel`, `head/bias`.

    Args:
        vocabulary: number of tokens.
        tags: number of tags.
        cell: "lstm" or "gru".
        embedding: units of an embedded token.
        hidden: units of each state.
        layers: number of recurrent layers.
        bidirectional: whether each layer also reads the sequence backwards and hands on both
            states, forward first.
        rngs: source of the initial weights.

    Raises:
        ValueError: The cell is unknown.

    Examples:
        >>> sizes = {"embedding": 3, "hidden": 5, "layers": 1}
        >>> model = Tagger(11, 4, cell="gru", **sizes, bidirectional=True, rngs=nnx.Rngs(0))
        >>> jax.jit(model)(jnp.zeros((2, 7), int)).shape
        (2, 7, 4)
        >>> model.head.kernel.shape
        (10, 4)
    """

    def __init__(
        self,
        vocabulary: int = 10_000,
        tags: int = 10_000,
        *,
        cell: Cell = "lstm",
        embedding: int = 1500,
        hidden: int = 1500,
        layers: int = 2,
        bidirectional: bool = False,
        rngs: nnx.Rngs,
    ):
        if cell not in ("lstm", "gru"):
            raise ValueError(f"cell must be 'lstm' or 'gru', got {cell!r}")
        kind = LSTM if cell == "lstm" else GRU
        states = hidden * (1 + bidirectional)
        widths = [embedding] + [states] * (layers - 1)
        self.bidirectional = bidirectional
        self.token = embed(vocabulary, embedding, rngs=rngs)
        self.forward = nnx.List([kind(n, hidden, rngs=rngs) for n in widths])
        if bidirectional:
            self.backward = nnx.List([kind(n, hidden, reverse=True, rngs=rngs) for n in widths])
        self.head = nnx.Linear(states, tags, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Compute the logits of every token's tag.

        Args:
            tokens: integers `[n, t]`.

        Returns:
            Logits `[n, t, tags]`.
        """
        x = self.token(tokens)
        for index, layer in enumerate(self.forward):
            states = layer(x)
            if self.bidirectional:
                states = jnp.concatenate([states, self.backward[index](x)], axis=-1)
            x = states
        return self.head(x)
