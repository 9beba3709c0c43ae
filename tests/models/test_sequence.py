"""Attention models as wholes, recurrent, expert and graph models against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfuse.models import functional
from jaxfuse.models.gcn import GCN, normalise_adjacency
from jaxfuse.models.gpt2 import GPT2
from jaxfuse.models.llama import Llama
from jaxfuse.models.mixer import MLPMixer
from jaxfuse.models.moe import MixtureOfExperts
from jaxfuse.models.recurrent import GRU, LSTM, Tagger
from jaxfuse.models.sequence import SEQUENCE
from jaxfuse.models.t5 import T5, relative_buckets
from jaxfuse.models.vit import ViT
from tests.oracles import sequence

CLOSE = {"rtol": 2e-4, "atol": 2e-5}
DECODERS = ["gpt2", "gpt2_scan", "llama", "llama_interleaved", "llama_scan", "t5", "t5_tied"]
# One variant of every class, where variants differ only in how their weights are used.
CLASSES = ["mlp_mixer", "vit", "gpt2", "llama", "t5", "lstm", "gru_bidirectional", "moe", "gcn"]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def weights(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module)))


def shapes(build):
    return nnx.eval_shape(lambda: build(nnx.Rngs(0)))


@functools.cache
def built(name):
    """Make a variant with random weights everywhere, so that biases and class tokens count."""
    graph, state = nnx.split(shapes(SEQUENCE[name].build))
    draw = np.random.default_rng(0)

    def random(leaf):
        fan = np.prod(leaf.shape[-2:-1])
        return jnp.asarray(draw.standard_normal(leaf.shape) / np.sqrt(max(fan, 4)), leaf.dtype)

    return nnx.merge(graph, jax.tree.map(random, state))


@functools.partial(jax.jit, static_argnums=0)
def merged_call(graph, state, inputs):
    return nnx.merge(graph, state)(*inputs)


def compiled(module, *inputs):
    return merged_call(*nnx.split(module), inputs)


@pytest.mark.parametrize("name", SEQUENCE)
def test_every_variant_runs_on_its_inputs(name, key):
    example = SEQUENCE[name]
    module, inputs = built(name), example.inputs(key)
    first = compiled(module, *inputs)
    assert jnp.isfinite(first).all()
    assert first.std() > 0
    np.testing.assert_array_equal(first, compiled(module, *example.inputs(key)))
    other = compiled(module, *example.inputs(jax.random.key(1)))
    assert not jnp.allclose(first, other)


@pytest.mark.parametrize("name", SEQUENCE)
def test_variants_compute_in_the_dtype_of_their_weights(name):
    with jax.enable_x64(True):
        graph, state = nnx.split(shapes(SEQUENCE[name].build))
        inputs = jax.eval_shape(SEQUENCE[name].inputs, jax.random.key(0))
        state, inputs = jax.tree.map(
            lambda leaf: (
                jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
                if jnp.issubdtype(leaf.dtype, jnp.integer)
                else jax.ShapeDtypeStruct(leaf.shape, jnp.float64)
            ),
            (state, inputs),
        )
        traced = jax.make_jaxpr(lambda s, i: nnx.merge(graph, s)(*i))(state, inputs)
    assert traced.out_avals[0].dtype == jnp.float64
    assert "f32" not in str(traced)


@pytest.mark.parametrize("name", CLASSES)
def test_weights_depend_on_the_key_alone(name):
    @jax.jit
    def make(key):
        return nnx.state(SEQUENCE[name].build(nnx.Rngs(key)))

    first, again, other = (make(jax.random.key(seed, impl="rbg")) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", SEQUENCE)
def test_variants_hold_weights_and_no_random_state(name):
    module = shapes(SEQUENCE[name].build)
    variables = [leaf for _, leaf in nnx.to_flat_state(nnx.state(module))]
    assert variables
    assert all(isinstance(variable, nnx.Param) for variable in variables)


@pytest.mark.parametrize("name", CLASSES)
def test_published_sizes_trace_on_shapes(name):
    example = SEQUENCE[name]

    def run(key):
        return example.published(nnx.Rngs(key))(*example.published_inputs(key))

    assert jax.eval_shape(run, jax.random.key(0)).size > 0


@pytest.mark.parametrize("name", SEQUENCE)
def test_every_token_occurs(name, key):
    for tokens in SEQUENCE[name].inputs(key):
        if jnp.issubdtype(tokens.dtype, jnp.integer):
            assert set(np.unique(tokens)) == set(range(24))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        pytest.param(GPT2, 124_439_808, id="gpt2-small"),
        pytest.param(ViT, 86_567_656, id="vit-b16"),
        pytest.param(MLPMixer, 59_880_472, id="mixer-b16"),
        pytest.param(Llama, 8_030_261_248, id="llama-3-8b"),
        pytest.param(T5, 247_577_856, id="t5-1.1-base"),
        pytest.param(GCN, 23_063, id="gcn-cora"),
        pytest.param(Tagger, 66_022_000, id="lstm-zaremba-large"),
    ],
)
def test_defaults_have_the_published_number_of_weights(build, expected):
    assert weights(shapes(lambda rngs: build(rngs=rngs))) == expected


@pytest.mark.parametrize("name", DECODERS)
def test_later_tokens_leave_earlier_logits_alone(name, key):
    module = built(name)
    *source, tokens = SEQUENCE[name].inputs(key)
    changed = tokens.at[:, 7].set((tokens[:, 7] + 1) % 24)
    before, after = compiled(module, *source, tokens), compiled(module, *source, changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert (jnp.abs(before - after)[:, 7:].max(axis=(0, 2)) > 1e-6).all()


def test_every_output_of_t5_depends_on_the_source(key):
    module = built("t5")
    source, target = SEQUENCE["t5"].inputs(key)
    changed = source.at[:, -1].set((source[:, -1] + 1) % 24)
    change = jnp.abs(compiled(module, source, target) - compiled(module, changed, target))
    assert (change.max(axis=-1) > 1e-6).all()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        pytest.param("gpt2", "gpt2_scan", id="gpt2-scan"),
        pytest.param("llama", "llama_scan", id="llama-scan"),
        pytest.param("llama", "llama_repeated_kv", id="llama-repeated-kv"),
    ],
)
def test_variants_of_one_function_agree(name, other, key):
    inputs = SEQUENCE[name].inputs(key)
    _, state = nnx.split(built(name))
    scanned = nnx.split(built(other))
    if other.endswith("_scan"):
        state["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *state["blocks"].values())
    one, two = compiled(built(name), *inputs), merged_call(scanned[0], state, inputs)
    np.testing.assert_allclose(one, two, **CLOSE)


@pytest.mark.parametrize("name", ["gpt2_scan", "llama_scan"])
def test_scanned_blocks_have_a_layer_axis(name):
    module = shapes(SEQUENCE[name].build)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(nnx.state(module.blocks))} == {2}


def test_scanned_models_are_pure_functions_of_their_params(key):
    module = built("gpt2_scan")
    apply_fn, params = functional(module)
    (tokens,) = SEQUENCE["gpt2_scan"].inputs(key)
    np.testing.assert_array_equal(
        jax.jit(apply_fn)(params, tokens), compiled(module, tokens), strict=True
    )
    assert params["blocks"]["qkv"]["kernel"].shape == (2, 16, 48)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("cell", [LSTM, GRU], ids=["lstm", "gru"])
def test_cells_agree_with_the_oracle(cell, reverse):
    layer = cell(3, 5, reverse=reverse, rngs=nnx.Rngs(0))
    _, params = functional(layer)
    params = jax.tree.map(lambda leaf: leaf + 0.5 * normal(2, *leaf.shape), params)
    graph, state = nnx.split(layer)
    nnx.replace_by_pure_dict(state, params)
    x = normal(1, 2, 7, 3)
    expected = {LSTM: sequence.lstm, GRU: sequence.gru}[cell](params, x, reverse=reverse)
    np.testing.assert_allclose(compiled(nnx.merge(graph, state), x), expected, **CLOSE)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_experts_agree_with_a_loop_over_examples(top_k):
    block = MixtureOfExperts(6, 8, experts=4, top_k=top_k, rngs=nnx.Rngs(0))
    x = normal(0, 20, 6)
    _, params = functional(block)
    np.testing.assert_allclose(
        compiled(block, x), sequence.mixture_of_experts(params, x, top_k), **CLOSE
    )


def test_every_expert_is_used(key):
    module = built("moe")
    (x,) = SEQUENCE["moe"].inputs(key)
    scores = module.block.router(module.norm(nnx.relu(module.inputs(x))))
    assert set(np.unique(jax.lax.top_k(scores, 2)[1])) == set(range(4))


def test_graph_convolutions_follow_a_permutation_of_the_nodes(key):
    module = built("gcn")
    x, adjacency = SEQUENCE["gcn"].inputs(key)
    order = jax.random.permutation(key, len(x))
    permuted = compiled(module, x[order], adjacency[order][:, order])
    np.testing.assert_allclose(permuted, compiled(module, x, adjacency)[order], **CLOSE)


def test_normalised_adjacency_agrees_with_its_definition():
    adjacency = np.triu(np.random.default_rng(0).integers(0, 2, (6, 6)), 1)
    adjacency = (adjacency + adjacency.T).astype(np.float32)
    looped = adjacency + np.eye(6)
    root = np.diag(looped.sum(axis=1) ** -0.5)
    np.testing.assert_allclose(
        normalise_adjacency(jnp.asarray(adjacency)), root @ looped @ root, rtol=1e-5
    )


def test_relative_buckets_are_monotone_and_all_in_use():
    causal = relative_buckets(12, 12, buckets=8, max_distance=12, causal=True)
    assert set(causal[-1]) == set(range(8))
    assert (np.diff(causal[-1]) <= 0).all()
    both = relative_buckets(16, 16, buckets=8, max_distance=12, causal=False)
    # A key after the query has distance one or more, so the fourth bucket is never in use.
    assert set(both.ravel()) == set(range(8)) - {4}


def test_relative_buckets_of_the_paper():
    buckets = relative_buckets(1, 200, buckets=32, max_distance=128, causal=False)[0]
    changes = [int(i) for i in np.flatnonzero(np.diff(buckets)) + 1]
    assert changes == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    assert buckets.max() == 31


def test_pooling_by_the_mean_needs_no_class_token(key):
    pooled, token = (shapes(SEQUENCE[name].build) for name in ("vit_mean_pool", "vit"))
    assert not hasattr(pooled, "class_token")
    assert (pooled.position.shape, token.position.shape) == ((1, 4, 16), (1, 5, 16))


@pytest.mark.parametrize("name", ["lstm", "lstm_two_layers", "gru", "gru_bidirectional"])
def test_only_bidirectional_taggers_see_later_tokens(name, key):
    module = built(name)
    (tokens,) = SEQUENCE[name].inputs(key)
    changed = tokens.at[:, 7].set((tokens[:, 7] + 1) % 24)
    change = jnp.abs(compiled(module, tokens) - compiled(module, changed)).max(axis=(0, 2))
    assert (change[7:9] > 1e-6).all()
    assert bool((change[:7] > 0).any()) == (name == "gru_bidirectional")


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        pytest.param(
            lambda: ViT((9, 8, 3), 2, patch=4, rngs=nnx.Rngs(0)), "do not tile", id="patches"
        ),
        pytest.param(lambda: ViT(pool="max", rngs=nnx.Rngs(0)), "'token' or 'mean'", id="pool"),
        pytest.param(lambda: Tagger(cell="rnn", rngs=nnx.Rngs(0)), "'lstm' or 'gru'", id="cell"),
        pytest.param(
            lambda: MixtureOfExperts(4, 4, experts=2, top_k=3, rngs=nnx.Rngs(0)),
            "between 1 and 2",
            id="experts",
        ),
        pytest.param(lambda: normalise_adjacency(normal(0, 2, 3)), "square", id="adjacency"),
        pytest.param(
            lambda: shapes(SEQUENCE["gpt2"].build)(jnp.zeros((1, 17), int)),
            "exceed the context of 16",
            id="context",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(refused, message):
    with pytest.raises(ValueError, match=message):
        refused()
