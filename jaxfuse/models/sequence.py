"""Attention, recurrent, expert and graph models, small enough to test, with their inputs."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.models.example import Example
from jaxfuse.models.gcn import GCN, normalise_adjacency
from jaxfuse.models.gpt2 import GPT2
from jaxfuse.models.llama import Llama
from jaxfuse.models.mixer import MLPMixer
from jaxfuse.models.moe import MoENetwork
from jaxfuse.models.recurrent import Tagger
from jaxfuse.models.t5 import T5
from jaxfuse.models.vit import ViT

Inputs = Callable[[jax.Array], tuple[Any, ...]]

_VOCABULARY = 24
_LENGTH = 16
_IMAGE = (8, 8, 3)


def token_inputs(vocabulary: int, *lengths: int) -> Inputs:
    """Make batches of two token sequences in which tokens occur as evenly as possible.

    Every token of the vocabulary occurs in each batch that is large enough, so that no row of an
    embedding is free to change.

    Args:
        vocabulary: number of tokens.
        *lengths: length of the sequences, for each input of the model.

    Returns:
        A function of a key that returns one int array `[2, length]` for each length.

    Examples:
        >>> (tokens,) = token_inputs(6, 4)(jax.random.key(0))
        >>> sorted(tokens.ravel().tolist())
        [0, 0, 1, 1, 2, 3, 4, 5]
    """

    def make(key: jax.Array) -> tuple[jax.Array, ...]:
        keys = jax.random.split(key, len(lengths))
        return tuple(
            jax.random.permutation(k, jnp.arange(2 * length) % vocabulary).reshape(2, length)
            for k, length in zip(keys, lengths, strict=True)
        )

    return make


def array_inputs(*shape: int) -> Inputs:
    """Make an array of standard normal numbers.

    Args:
        *shape: its shape, batch first.

    Returns:
        A function of a key that returns a tuple of the array.

    Examples:
        >>> array_inputs(2, 3)(jax.random.key(0))[0].shape
        (2, 3)
    """
    return lambda key: (jax.random.normal(key, shape),)


def graph_inputs(nodes: int, features: int, *, degree: float) -> Inputs:
    """Make the features of a graph's nodes and its normalised adjacency.

    Args:
        nodes: number of nodes.
        features: features of a node.
        degree: neighbours of a node, on average.

    Returns:
        A function of a key that returns features `[nodes, features]` and the propagation matrix
        `[nodes, nodes]`.

    Examples:
        >>> x, adjacency = graph_inputs(5, 2, degree=2)(jax.random.key(0))
        >>> x.shape, adjacency.shape
        ((5, 2), (5, 5))
    """

    def make(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        edges, values = jax.random.split(key)
        drawn = jax.random.bernoulli(edges, degree / max(nodes - 1, 1), (nodes, nodes))
        upper = jnp.triu(drawn, 1).astype(jnp.float32)
        return jax.random.normal(values, (nodes, features)), normalise_adjacency(upper + upper.T)

    return make


def _gpt2(**options: Any) -> Example:
    sizes = {"context": _LENGTH, "width": 16, "layers": 2, "heads": 4, "hidden": 24}
    return Example(
        build=lambda rngs: GPT2(_VOCABULARY, **sizes, **options, rngs=rngs),
        inputs=token_inputs(_VOCABULARY, _LENGTH),
        published=lambda rngs: GPT2(**options, rngs=rngs),
        published_inputs=token_inputs(50_257, 1024),
    )


def _llama(**options: Any) -> Example:
    sizes = {"width": 16, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 6, "hidden": 20}
    small: dict[str, Any] = sizes | options
    return Example(
        build=lambda rngs: Llama(_VOCABULARY, **small, rngs=rngs),
        inputs=token_inputs(_VOCABULARY, _LENGTH),
        published=lambda rngs: Llama(**options, rngs=rngs),
        published_inputs=token_inputs(128_256, 2048),
    )


def _t5(**options: Any) -> Example:
    # With these distances a sequence of twelve tokens reaches every bucket of the decoder.
    positions = {"buckets": 8, "max_distance": 12}
    sizes = {"width": 16, "layers": 2, "heads": 4, "head_dim": 5, "hidden": 20}
    return Example(
        build=lambda rngs: T5(_VOCABULARY, **sizes, **positions, **options, rngs=rngs),
        inputs=token_inputs(_VOCABULARY, _LENGTH, 12),
        published=lambda rngs: T5(**options, rngs=rngs),
        published_inputs=token_inputs(32_128, 512, 512),
    )


def _vit(**options: Any) -> Example:
    sizes = {"patch": 4, "width": 16, "layers": 2, "heads": 4, "hidden": 24}
    return Example(
        build=lambda rngs: ViT(_IMAGE, 5, **sizes, **options, rngs=rngs),
        inputs=array_inputs(2, *_IMAGE),
        published=lambda rngs: ViT(**options, rngs=rngs),
        published_inputs=array_inputs(2, 224, 224, 3),
    )


def _mixer() -> Example:
    sizes = {"patch": 2, "width": 12, "layers": 2, "token_hidden": 20, "channel_hidden": 24}
    return Example(
        build=lambda rngs: MLPMixer(_IMAGE, 5, **sizes, rngs=rngs),
        inputs=array_inputs(2, *_IMAGE),
        published=lambda rngs: MLPMixer(rngs=rngs),
        published_inputs=array_inputs(2, 224, 224, 3),
    )


def _tagger(**options: Any) -> Example:
    sizes = {"embedding": 10, "hidden": 12}
    return Example(
        build=lambda rngs: Tagger(_VOCABULARY, 5, **sizes, **options, rngs=rngs),
        inputs=token_inputs(_VOCABULARY, _LENGTH),
        published=lambda rngs: Tagger(**options, rngs=rngs),
        published_inputs=token_inputs(10_000, 35),
    )


def _moe() -> Example:
    sizes = {"width": 16, "hidden": 20, "experts": 4}
    return Example(
        build=lambda rngs: MoENetwork(6, 5, **sizes, rngs=rngs),
        inputs=array_inputs(64, 6),
        published=lambda rngs: MoENetwork(rngs=rngs),
        published_inputs=array_inputs(64, 1024),
    )


def _gcn() -> Example:
    return Example(
        build=lambda rngs: GCN(6, 4, hidden=(10,), rngs=rngs),
        inputs=graph_inputs(12, 6, degree=3),
        published=lambda rngs: GCN(rngs=rngs),
        published_inputs=graph_inputs(2708, 1433, degree=4),
    )


SEQUENCE: Mapping[str, Example] = MappingProxyType(
    {
        "mlp_mixer": _mixer(),
        "vit": _vit(),
        "vit_mean_pool": _vit(pool="mean"),
        "gpt2": _gpt2(),
        "gpt2_scan": _gpt2(scan_layers=True),
        "llama": _llama(),
        "llama_interleaved": _llama(interleaved=True),
        "llama_repeated_kv": _llama(repeat_kv=True),
        "llama_multi_query": _llama(kv_heads=1),
        "llama_scan": _llama(scan_layers=True),
        "t5": _t5(),
        "t5_tied": _t5(tied=True),
        "lstm": _tagger(cell="lstm", layers=1),
        "lstm_two_layers": _tagger(cell="lstm", layers=2),
        "gru": _tagger(cell="gru", layers=1),
        "gru_bidirectional": _tagger(cell="gru", layers=2, bidirectional=True),
        "moe": _moe(),
        "gcn": _gcn(),
    }
)
"""Variants by name. The published ones have the default sizes of their classes."""
