"""The matching objective against its oracle, autodiff and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.affinity import ExactGaussian, Gaussian, Linear
from jaxfuse.matching import Problem, build_problem
from jaxfuse.matching.nodes import flatten
from jaxfuse.symmetry import Symmetry, infer_chain
from tests.matching.instances import (
    nested_problem,
    residual_network,
    residual_objective,
    self_linked,
)
from tests.oracles import affinity
from tests.oracles import nested as nested_oracle
from tests.oracles.matching import chain_objective


def soft(problem, seed):
    rng = np.random.default_rng(seed)
    return {g: jnp.asarray(rng.random((n, n)), jnp.float32) for g, n in problem.sizes.items()}


def hard(problem, seed):
    rng = np.random.default_rng(seed)
    return {g: jnp.asarray(rng.permutation(n), jnp.int32) for g, n in problem.sizes.items()}


def one_hot(permutations):
    return {g: jax.nn.one_hot(p, len(p)) for g, p in permutations.items()}


objective = jax.jit(Problem.objective)
scores = jax.jit(Problem.scores)
objective_at = jax.jit(Problem.objective_at)
scores_at = jax.jit(Problem.scores_at)
objective_at_groups = jax.jit(Problem.objective_at, static_argnums=2)


@pytest.fixture(scope="module", params=["residual", "self_linked"])
def case(request, instances):
    if request.param == "self_linked":
        return self_linked(0)
    problems, oracles, _ = instances
    return problems[0], oracles[0]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_soft_objective_and_scores_match_the_oracle(case, seed):
    problem, oracle = case
    matching = soft(problem, seed)
    np.testing.assert_allclose(objective(problem, matching), oracle.value(matching), 2e-5, 1e-4)
    for group, want in oracle.scores(matching).items():
        got = scores(problem, matching)[group]
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_hard_objective_and_scores_match_one_hot_matrices(case, seed):
    problem, oracle = case
    permutations = hard(problem, seed)
    value = objective_at(problem, permutations)
    np.testing.assert_allclose(value, oracle.value_at(permutations), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(value, oracle.value(one_hot(permutations)), rtol=2e-5, atol=1e-5)
    for group, want in oracle.scores(one_hot(permutations)).items():
        got = scores_at(problem, permutations)[group]
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_scores_are_the_finite_differences_of_the_objective(case):
    problem, oracle = case
    matching = soft(problem, 1)
    for group, got in scores(problem, matching).items():
        for i, j in ((0, 0), (2, 1)):
            ends = []
            for step in (0.5, -0.5):
                moved = {g: np.array(p, np.float64) for g, p in matching.items()}
                moved[group][i, j] += step
                ends.append(oracle.value(moved))
            # Central differences of a quadratic are exact at any step.
            np.testing.assert_allclose(got[i, j], ends[0] - ends[1], rtol=1e-4, atol=1e-4)


def test_scores_of_some_groups_only(instances):
    problem = instances[0][0]
    matching = soft(problem, 2)
    part = problem.scores(matching, ["h0"])
    assert list(part) == ["h0"]
    np.testing.assert_allclose(part["h0"], scores(problem, matching)["h0"], rtol=1e-6)


@pytest.mark.parametrize(
    ("affinity_kind", "kernel"),
    [
        (Linear(), affinity.linear),
        (Gaussian(4.0, rank=32), lambda a, b: affinity.gaussian(a, b, 4.0)),
    ],
    ids=["linear", "gaussian"],
)
def test_chain_from_parameters_to_objective(affinity_kind, kernel):
    rng = np.random.default_rng(0)
    shapes = [(3, 5), (5, 4), (4, 2)]
    a, b = ([np.float32(rng.standard_normal(s)) for s in shapes] for _ in range(2))
    problem = jax.jit(build_problem, static_argnums=(2, 3))(a, b, infer_chain(a), affinity_kind)
    oracle = chain_objective(a, b, kernel)
    permutations = hard(problem, 3)
    np.testing.assert_allclose(
        objective_at(problem, permutations), oracle.value_at(permutations), rtol=1e-4
    )


def test_linear_objective_is_the_distance_of_the_weights():
    # |A - PB|^2 = |A|^2 + |B|^2 - 2 J.
    (a, symmetry), (b, _) = residual_network(0), residual_network(1)
    problem = build_problem(a, b, symmetry, Linear())
    distance = sum(float(jnp.sum((a[k] - b[k]) ** 2)) for k in a)
    norms = sum(float(jnp.sum(a[k] ** 2) + jnp.sum(b[k] ** 2)) for k in a)
    got = norms - 2 * problem.objective_at(problem.identity())
    np.testing.assert_allclose(got, distance, rtol=1e-5)
    np.testing.assert_allclose(
        residual_objective(a, b).value_at(problem.identity()), (norms - distance) / 2, rtol=1e-5
    )


def test_statistics_do_not_enter_the_objective():
    params = {"kernel": jnp.ones((2, 3)), "mean": jnp.arange(3.0)}
    symmetry = Symmetry.from_axes({"kernel": (None, "h"), "mean": ("h",)}, params)
    other = {**params, "mean": 5 * params["mean"]}
    problems = [build_problem(params, p, symmetry, Linear()) for p in (params, other)]
    np.testing.assert_array_equal(problems[0].nodes["h"], problems[1].nodes["h"])


def test_half_precision_is_matched_in_float32():
    params, symmetry = residual_network(0)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    problem = build_problem(half, half, symmetry, Linear())
    assert {leaf.dtype for leaf in jax.tree.leaves(problem)} == {jnp.dtype("float32")}


@settings(deadline=None, max_examples=30)
@given(links=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=10))
def test_colours_part_the_groups_and_no_class_holds_a_link(links):
    nodes = {f"g{i}": np.zeros((2, 2)) for i in range(5)}
    named = tuple((f"g{i}", f"g{j}") for i, j in links)
    classes = Problem(nodes, (), (named,)).colours()
    assert sorted(g for members in classes for g in members) == sorted(nodes)
    for members in classes:
        assert not any(g != h and g in members and h in members for g, h in named)


def test_chains_need_two_colours():
    nodes = {f"g{i}": np.zeros((2, 2)) for i in range(5)}
    links = tuple((f"g{i}", f"g{i + 1}") for i in range(4))
    assert Problem(nodes, (), (links,)).colours() == (("g0", "g2", "g4"), ("g1", "g3"))


def test_barycentre_and_identity(instances):
    problem = instances[0][0]
    assert problem.sizes == {"r": 4, "h0": 3}
    for group, n in problem.sizes.items():
        np.testing.assert_allclose(problem.barycentre()[group], np.full((n, n), 1 / n))
        np.testing.assert_array_equal(problem.identity()[group], np.arange(n))


SHARED_AND_NESTED = (
    "grouped_query",
    "grouped_convolution",
    "stacked_heads",
    "direct_sum",
    "block_recurrent",
)


@pytest.fixture(scope="module", params=SHARED_AND_NESTED)
def nested(request):
    """Problems of small networks with nested groups, with their weights."""
    return nested_problem(request.param)


def test_nested_objective_is_that_of_the_reordered_weights(nested):
    problem, a, b, symmetry = nested
    for seed in range(2):
        permutations = nested_oracle.draw(symmetry, seed)
        flat = jax.jit(flatten, static_argnums=0)(symmetry, permutations)
        want = nested_oracle.objective(a, b, symmetry, permutations)
        scale = sum(float(jnp.sum(jnp.abs(leaf))) for leaf in a.values())
        np.testing.assert_allclose(objective_at(problem, flat), want, atol=1e-5 * scale)
        np.testing.assert_allclose(objective(problem, one_hot(flat)), want, atol=1e-5 * scale)


def test_nested_scores_at_permutations_are_the_gradient(nested):
    problem, _, _, symmetry = nested
    flat = jax.jit(flatten, static_argnums=0)(symmetry, nested_oracle.draw(symmetry, 3))
    want = scores(problem, one_hot(flat))
    for node, got in scores_at(problem, flat).items():
        np.testing.assert_allclose(got, want[node], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["grouped_query", "block_recurrent"])
def test_nested_scores_are_finite_differences(name):
    problem, *_ = nested_problem(name)
    matching = soft(problem, 1)
    for node, got in scores(problem, matching).items():
        ends = [
            float(objective(problem, {**matching, node: matching[node].at[1, 2].add(step)}))
            for step in (0.5, -0.5)
        ]
        np.testing.assert_allclose(got[1, 2], ends[0] - ends[1], rtol=1e-2, atol=1e-2)


def test_objective_of_named_nodes_is_their_share():
    problem, _, _, symmetry = nested_problem("attention")
    first, second = (flatten(symmetry, nested_oracle.draw(symmetry, seed)) for seed in (1, 2))
    moved = {**first, "f": second["f"]}
    gain = objective_at(problem, moved) - objective_at(problem, first)
    share = [problem.objective_at(p, ["f"]) for p in (moved, first)]
    np.testing.assert_allclose(gain, share[0] - share[1], rtol=1e-3)


def test_trees_hang_together_and_move_as_one():
    problem, *_ = nested_problem("attention")
    assert problem.trees == (("e",), ("h", "qk", "vo"), ("f",))
    assert problem.colours() == (("e",), ("h", "qk", "vo", "f"))
    assert problem.is_quadratic
    assert not any(problem.meets_itself(tree) for tree in problem.trees)
    assert problem.sizes == {"e": 10, "f": 9, "h": 3, "qk": 12, "vo": 15}


@pytest.mark.parametrize(
    ("name", "quadratic", "meets"),
    [
        ("grouped_query", False, [("kv", "g", "qk", "vo")]),
        ("grouped_convolution", True, [("g", "a", "b", "c")]),
        ("block_recurrent", True, [("h", "d")]),
        ("recurrent", True, [("h",)]),
        ("stacked_heads", True, []),
    ],
)
def test_degree_of_the_objective_and_trees_that_meet_themselves(name, quadratic, meets):
    problem, *_ = nested_problem(name)
    assert problem.is_quadratic is quadratic
    assert [tree for tree in problem.trees if problem.meets_itself(tree)] == meets


@pytest.mark.parametrize("kind", [Linear(), ExactGaussian(2.0)], ids=["linear", "exact"])
def test_tensors_of_one_shape_share_a_block_but_for_streamed_ones(kind):
    rng = np.random.default_rng(1)
    a, b = ([np.float32(rng.standard_normal((3, 3))) for _ in range(5)] for _ in range(2))
    problem = build_problem(a, b, infer_chain(a), kind)
    links = [("0", "1"), ("1", "2"), ("2", "3")]
    together = isinstance(kind, Linear)
    assert problem.links == ((tuple(links),) if together else tuple((link,) for link in links))
    permutations = hard(problem, 0)
    want = sum(
        float(jnp.sum(kind.node_scores(x, y)[jnp.arange(3), permutations[g]]))
        for g, x, y in (
            ("0", *(jnp.swapaxes(e[0], 0, 1)[..., None] for e in (a, b))),
            ("3", *(jnp.asarray(e[4])[..., None] for e in (a, b))),
        )
    )
    for (g, h), x, y in zip(links, a[1:4], b[1:4], strict=True):
        block = kind.block(jnp.asarray(x)[..., None], jnp.asarray(y)[..., None])
        want += float(block.value_at(permutations[g], permutations[h]))
    np.testing.assert_allclose(objective_at(problem, permutations), want, rtol=1e-5)
    for group, got in scores_at(problem, permutations).items():
        np.testing.assert_allclose(
            got, problem.group_scores(group, permutations), rtol=1e-5, atol=1e-5
        )
    parts = [objective_at_groups(problem, permutations, (g,)) for g in problem.nodes]
    ends = float(objective_at(problem, permutations))
    within = ends - sum(
        float(jnp.sum(problem.nodes[g][jnp.arange(3), p])) for g, p in permutations.items()
    )
    # Every tensor joins two groups here, so it is in two of the parts.
    np.testing.assert_allclose(sum(parts), ends + within, rtol=1e-5)


def test_waves_keep_the_order_of_trees_that_meet():
    nodes = dict.fromkeys(("r", "a", "b", "c", "d"), jnp.zeros((2, 2)))
    links = (("r", "a"), ("r", "b"), ("b", "c"))
    waves = Problem(nodes, (), (links,)).waves()
    assert waves == ((("r",), ("d",)), (("a",), ("b",)), (("c",),))


def test_the_order_of_the_nodes_survives_a_pytree():
    nodes = {name: jnp.zeros((2, 2)) for name in "cab"}
    sorted_ = jax.tree.map(jnp.asarray, Problem(nodes, (), ()))
    assert list(sorted_.nodes) == ["a", "b", "c"]
    assert list(sorted_.sizes) == ["c", "a", "b"]
    assert sorted_.trees == (("c",), ("a",), ("b",))
