"""Aligning whole networks: the promises of the public call."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse import (
    CoordinateAscent,
    ExactGaussian,
    FrankWolfe,
    Linear,
    Symmetry,
    align_params,
    infer_chain,
    permute,
)
from jaxfuse.status import Status
from jaxfuse.symmetry import random_permutations
from tests.oracles import nested as nested_oracle
from tests.symmetry import nested

SIZES = (4, 6, 5, 3)


def network(seed, sizes=SIZES, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        f"fc{i}": {
            "kernel": jnp.asarray(rng.standard_normal((n, m)), dtype),
            "bias": jnp.asarray(rng.standard_normal(m), dtype),
        }
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }


def apply_fn(params, x):
    *hidden, head = params.values()
    for layer in hidden:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"][None])
    return x @ head["kernel"] + head["bias"][None]


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def item(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


align = jax.jit(align_params)
align_each = jax.jit(jax.vmap(align_params))
SYMMETRY = infer_chain(network(0))
shuffle = jax.jit(lambda params, key: permute(params, SYMMETRY, random_permutations(SYMMETRY, key)))


@pytest.fixture(scope="module")
def pairs():
    """Three references, three others, and what the compiled call says of each pair."""
    references, others = [network(i) for i in range(3)], [network(10 + i) for i in range(3)]
    return references, others, [align(a, b) for a, b in zip(references, others, strict=True)]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1))
def test_planted_copy_is_recovered_exactly(seed):
    params = network(seed)
    other = shuffle(params, jax.random.key(seed))
    alignment = align(params, other)
    chex.assert_trees_all_equal(alignment.params, params)
    identity = all(np.array_equal(p, np.arange(len(p))) for p in alignment.permutations.values())
    if not identity:
        assert alignment.status == Status.CONVERGED
    total = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(params))
    head_bias = float(jnp.sum(params["fc2"]["bias"] ** 2))
    np.testing.assert_allclose(alignment.objective, total - head_bias, rtol=1e-5)


def test_function_of_b_does_not_change(pairs):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, SIZES[0])), jnp.float32)
    for _, other, alignment in zip(*pairs, strict=True):
        got, want = apply_fn(alignment.params, x), apply_fn(other, x)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_equal(alignment.params, permute(other, SYMMETRY, alignment[1]))


def test_bare_call_equals_the_compiled_one(pairs):
    for reference, other, want in zip(*pairs, strict=True):
        bare = align_params(reference, other)
        assert bare.seconds > 0
        assert np.isnan(want.seconds)
        chex.assert_trees_all_close(bare[:5], want[:5], rtol=1e-5)


def test_vmap_over_both_arguments(pairs):
    references, others, singles = pairs
    batched = align_each(stack(*references), stack(*others))
    for index, want in enumerate(singles):
        chex.assert_trees_all_close(item(batched, index), want, rtol=1e-4, atol=1e-4)


def test_vmap_of_one_reference_against_a_stack(pairs):
    references, others, _ = pairs
    batched = jax.jit(jax.vmap(align_params, in_axes=(None, 0)))(references[0], stack(*others))
    for index, other in enumerate(others):
        chex.assert_trees_all_close(
            item(batched, index), align(references[0], other), rtol=1e-4, atol=1e-4
        )


def test_inside_a_scan_of_training_steps(pairs):
    references, others, singles = pairs

    @jax.jit
    def run(stacked):
        def step(params, other):
            alignment = align_params(params, other)
            return alignment.params, alignment

        return jax.lax.scan(step, references[0], stacked)

    last, alignments = run(stack(*others[:1], *others[:1]))
    chex.assert_trees_all_close(item(alignments, 0), singles[0], rtol=1e-4, atol=1e-4)
    # The second step meets the network that the first step has aligned.
    chex.assert_trees_all_equal(item(alignments.params, 1), last)
    chex.assert_trees_all_close(last, singles[0].params)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("argument", [0, 1])
def test_non_finite_weights(pairs, value, argument):
    trees = [pairs[0][0], pairs[1][0]]
    broken = jax.tree.map(lambda leaf: leaf, trees[argument])
    broken["fc1"]["kernel"] = broken["fc1"]["kernel"].at[1, 2].set(value)
    trees[argument] = broken
    name = ("params_a", "params_b")[argument]
    with pytest.raises(ValueError, match=f"'fc1/kernel' of {name} holds NaN or infinity"):
        align_params(*trees)
    alignment = align(*trees)
    assert alignment.status == Status.NON_FINITE
    assert jnp.isnan(alignment.objective)
    chex.assert_trees_all_equal(alignment.params, trees[1])
    for columns in alignment.permutations.values():
        np.testing.assert_array_equal(columns, np.arange(len(columns)))


def test_non_finite_member_of_a_batch_leaves_the_others(pairs):
    references, others, singles = pairs
    broken = stack(*others)
    broken["fc0"]["bias"] = broken["fc0"]["bias"].at[1].set(jnp.nan)
    batched = align_each(stack(*references), broken)
    assert batched.status.tolist() == [
        Status.CONVERGED if index != 1 else Status.NON_FINITE for index in range(3)
    ]
    for index in (0, 2):
        np.testing.assert_allclose(batched.objective[index], singles[index].objective, rtol=1e-4)


def test_aligned_pair_stays(pairs):
    params = pairs[0][0]
    alignment = align(params, params)
    assert alignment.status == Status.ALREADY_ALIGNED
    chex.assert_trees_all_equal(alignment.params, params)
    again = align(params, align(params, pairs[1][0]).params)
    assert again.objective >= align(params, pairs[1][0]).objective - 1e-4


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept_and_matched_in_float32(dtype):
    params = network(0, dtype=dtype)
    other = permute(params, SYMMETRY, random_permutations(SYMMETRY, jax.random.key(1)))
    alignment = align_params(params, other, method="coordinate_ascent")
    assert {leaf.dtype for leaf in jax.tree.leaves(alignment.params)} == {jnp.dtype(dtype)}
    assert alignment.objective.dtype == jnp.float32
    full = [jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree) for tree in (params, other)]
    want = align_params(*full, method="coordinate_ascent")
    chex.assert_trees_all_close(alignment[1:5], want[1:5])


def test_leaves_that_are_no_weights_are_carried(pairs):
    reference, other, want = (part[0] for part in pairs)
    extra = {
        "step": jnp.int32(3),
        "mask": jnp.array([True, False]),
        "tangent": np.zeros((2,), jax.dtypes.float0),
        "key": jax.random.key(5),
    }
    objects = {"act": jax.nn.relu, "name": "mlp", "rate": 0.5}
    bare = align_params({**reference, **extra, **objects}, {**other, **extra, **objects})
    for name in (*extra, *objects):
        assert bare.params[name] is {**extra, **objects}[name]
    chex.assert_trees_all_equal({k: bare.params[k] for k in other}, want.params)


def test_bare_list_and_array_tree():
    rng = np.random.default_rng(0)
    shapes = [(3, 5), (5,), (5, 4), (4,), (4, 2), (2,)]
    params = [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes]
    symmetry = infer_chain(params)
    other = permute(params, symmetry, random_permutations(symmetry, jax.random.key(1)))
    chex.assert_trees_all_equal(align_params(params, other).params, params)


def test_single_layer_has_nothing_to_align():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    alignment = align_params(params, params)
    assert alignment.permutations == {}
    assert alignment.status == Status.ALREADY_ALIGNED
    chex.assert_trees_all_equal(alignment.params, params)
    broken = {**params, "bias": jnp.full(2, jnp.nan)}
    assert align(params, broken).status == Status.NON_FINITE


def renamed(tree):
    return {("head" if key == "fc2" else key): layer for key, layer in tree.items()}


def integers(tree):
    return {**tree, "fc0": jax.tree.map(lambda leaf: leaf.astype(int), tree["fc0"])}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda b: network(1, (4, 7, 5, 3)),
            r"leaf 'fc0/bias' has shape \(6,\) in params_a and \(7,\) in params_b.*one width",
        ),
        (renamed, "leaf 'fc2/bias' is in params_a and not in params_b"),
        (lambda b: [b], "not the same kind of network"),
        (integers, "leaf 'fc0/bias' carries a group, and is no array of real numbers"),
    ],
    ids=["widths", "names", "containers", "integers"],
)
@pytest.mark.parametrize("call", [align_params, align], ids=["bare", "jit"])
def test_networks_that_do_not_fit_are_refused(call, make, message):
    with pytest.raises(ValueError, match=message):
        call(network(0), make(network(1)))


@pytest.mark.parametrize("tree", [{}, [], {"n": 3}], ids=str)
def test_empty_tree_is_refused(tree):
    with pytest.raises(ValueError, match="no arrays of real numbers: nothing to align"):
        align_params(tree, tree)


def test_symmetry_of_another_model_is_refused():
    symmetry = infer_chain(network(0, (4, 7, 5, 3)))
    with pytest.raises(ValueError, match="another width"):
        align_params(network(0), network(1), symmetry=symmetry)


@pytest.mark.parametrize("argument", ["affinity", "method"])
def test_unknown_names_are_refused_with_the_known_ones(argument):
    with pytest.raises(ValueError, match=rf"{argument}='best' is none of \['"):
        align_params(network(0), network(1), **{argument: "best"})


def test_a_class_in_place_of_settings_is_refused():
    with pytest.raises(ValueError, match=r"pass FrankWolfe\(\)"):
        align_params(network(0), network(1), method=FrankWolfe)


def test_settings_are_static_under_jit(pairs):
    reference, other = pairs[0][0], pairs[1][0]
    got = jax.jit(align_params)(
        reference, other, method=CoordinateAscent(), affinity=Linear(), symmetry=infer_chain(other)
    )
    want = align_params(reference, other, method=CoordinateAscent())
    chex.assert_trees_all_equal(got.permutations, want.permutations)


def test_alignment_without_callbacks_can_be_exported(pairs):
    reference, other = pairs[0][0], pairs[1][0]
    align = functools.partial(align_params, method=FrankWolfe(), backend="jax")
    exported = jax.export.export(jax.jit(align))(reference, other)
    assert "xla_ffi_python" not in exported.mlir_module()
    want = align_params(reference, other, method=FrankWolfe())
    np.testing.assert_allclose(exported.call(reference, other).objective, want.objective, rtol=1e-5)


def test_random_order_without_a_key_is_refused():
    with pytest.raises(ValueError, match="needs key="):
        align_params(network(0), network(1), method=CoordinateAscent(order="random"))


@pytest.mark.parametrize("affinity", ["gaussian", ExactGaussian(2.0)], ids=["short", "exact"])
def test_gaussian_affinities_recover_a_planted_copy(affinity):
    params = network(3)
    other = shuffle(params, jax.random.key(4))
    alignment = align_params(params, other, affinity=affinity, method="frank_wolfe")
    chex.assert_trees_all_equal(alignment.params, params)


def test_table_of_a_residual_network(key):
    shapes = {"in": (3, 6), "up": (6, 5), "down": (5, 6), "out": (6, 2)}
    axes = {"in": (None, "r"), "up": ("r", "h"), "down": ("h", "r"), "out": ("r", None)}
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}
    symmetry = Symmetry.from_axes(axes, params)
    other = permute(params, symmetry, random_permutations(symmetry, key))
    alignment = align_params(params, other, symmetry=symmetry, method="frank_wolfe")
    chex.assert_trees_all_equal(alignment.params, params)


def test_gradients_flow_to_b_alone(pairs):
    reference, other = pairs[0][0], pairs[1][0]
    alignment = align_params(reference, other, method="coordinate_ascent")
    weights = network(77)

    def loss(a, b):
        moved = align_params(a, b, method="coordinate_ascent").params
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, weights, moved)))

    of_a, of_b = jax.jit(jax.grad(loss, argnums=(0, 1)))(reference, other)
    chex.assert_trees_all_equal(of_a, jax.tree.map(jnp.zeros_like, reference))
    inverse = {g: jnp.argsort(p) for g, p in alignment.permutations.items()}
    chex.assert_trees_all_close(of_b, permute(weights, SYMMETRY, inverse))


def test_one_compilation_serves_all_values():
    chex.clear_trace_counter()
    counted = jax.jit(
        chex.assert_max_traces(lambda a, b: align_params(a, b, method="coordinate_ascent"), n=1)
    )
    objectives = {float(counted(network(i), network(i + 9)).objective) for i in range(3)}
    assert len(objectives) == 3


def test_same_input_gives_the_same_answer(pairs):
    reference, other, want = (part[0] for part in pairs)
    chex.assert_trees_all_equal(align(reference, other), want)
    assert set(want.permutations) == {"fc0", "fc1"}
    assert want.permutations["fc0"].dtype == jnp.int32
    assert (want.status, want.trace.ndim) == (Status.CONVERGED, 1)


def planted_copies(name, count, **sizes):
    """Return networks with nested groups, and copies in a random order."""
    shapes, symmetry = nested.NETWORKS[name](**sizes)
    networks = [nested.draw(shapes, seed) for seed in range(count)]
    copies = [
        permute(params, symmetry, nested_oracle.draw(symmetry, seed))
        for seed, params in enumerate(networks)
    ]
    return symmetry, networks, copies


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("grouped_query", "frank_wolfe"),
        ("experts", "coordinate_ascent"),
        ("direct_sum", "graduated_assignment"),
        ("recurrent", "portfolio"),
        ("attention", "frank_wolfe"),
        ("grouped_convolution", "frank_wolfe"),
        ("stacked", "frank_wolfe"),
        ("stacked_heads", "coordinate_ascent"),
        ("three_levels", "graduated_assignment"),
    ],
)
def test_nested_groups_and_blocks_are_recovered_exactly(name, solver):
    symmetry, networks, copies = planted_copies(name, 3)
    align = jax.jit(functools.partial(align_params, symmetry=symmetry, method=solver))
    for params, other in zip(networks, copies, strict=True):
        alignment = align(params, other)
        assert alignment.status == Status.CONVERGED
        chex.assert_trees_all_equal(alignment.params, params)
        shapes = {group: p.shape for group, p in alignment.permutations.items()}
        assert shapes == {group: symmetry.shape(group) for group in symmetry.groups}
        chex.assert_trees_all_equal(
            alignment.params, permute(other, symmetry, jax.device_get(alignment.permutations))
        )
    aligned = align(networks[0], networks[0])
    assert aligned.status == Status.ALREADY_ALIGNED
    chex.assert_trees_all_equal(aligned.params, networks[0])


def test_nested_groups_under_vmap():
    symmetry, networks, copies = planted_copies("block_recurrent", 3)
    align = functools.partial(align_params, symmetry=symmetry, method="coordinate_ascent")
    batched = jax.jit(jax.vmap(align))(stack(*networks), stack(*copies))
    chex.assert_trees_all_equal(batched.params, stack(*networks))
    assert batched.status.tolist() == [Status.CONVERGED] * 3
    assert batched.permutations["d"].shape == (3, 3, 4)


def test_non_finite_weights_leave_nested_groups_in_place():
    symmetry, (params, _), (_, other) = planted_copies("three_levels", 2)
    other = {**other, "gate": np.full_like(other["gate"], np.nan)}
    align = jax.jit(functools.partial(align_params, symmetry=symmetry, method="coordinate_ascent"))
    alignment = align(params, other)
    assert alignment.status == Status.NON_FINITE
    chex.assert_trees_all_equal(alignment.params, other)
    for group, columns in alignment.permutations.items():
        want = np.broadcast_to(np.arange(symmetry.groups[group]), symmetry.shape(group))
        np.testing.assert_array_equal(columns, want)
