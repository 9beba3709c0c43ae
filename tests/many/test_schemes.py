"""What every scheme of many models promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxfuse.many import AllToOne, Hierarchical, MergeMany, Sequential
from jaxfuse.matching import CoordinateAscent, FrankWolfe
from jaxfuse.status import Status
from jaxfuse.symmetry import Symmetry
from tests.many.instances import (
    AXES,
    SCHEMES,
    SIZES,
    WALK,
    build,
    fused,
    independent,
    objective_at,
    one_layer,
    planted,
    reorder,
    solve,
)
from tests.matching.instances import residual_problem
from tests.matching.instances import solve as solve_two
from tests.oracles import many as oracle


@pytest.fixture(scope="module", params=SCHEMES)
def scheme(request):
    return SCHEMES[request.param][0]


@pytest.fixture(scope="module")
def instances():
    """Three sets of four independent networks, and the largest J there is."""
    drawn = [independent(seed) for seed in range(1, 4)]
    return [(n, build(n, s), oracle.optimum(n, AXES, SIZES)) for n, s in drawn]


def test_against_brute_force(scheme, instances):
    shares = []
    for networks, problem, optimum in instances:
        found = solve(scheme, problem)
        for group, order in jax.device_get(found.orders).items():
            assert order.dtype == np.int32
            np.testing.assert_array_equal(order[0], np.arange(SIZES[group]))
            np.testing.assert_array_equal(np.sort(order), np.broadcast_to(order[0], order.shape))
        value = oracle.objective_at(networks, AXES, found.orders)
        np.testing.assert_allclose(found.objective, value, rtol=1e-4)
        assert value <= optimum + 1e-3
        assert value >= oracle.objective_at(networks, AXES, problem.identity()) - 1e-3
        assert np.isfinite(found.trace).all()
        shares.append(value / optimum)
    # Local optima are allowed; the orders that the networks have reach a fifth or less.
    assert np.mean(shares) > 0.75


def test_planted_orders_are_found(scheme):
    networks, symmetry, right = planted(1)
    found = solve(scheme, build(networks, symmetry))
    assert found.status != Status.ALREADY_ALIGNED
    for group, order in right.items():
        np.testing.assert_array_equal(found.orders[group], order)


def test_copies_keep_their_order(scheme):
    networks, symmetry = independent(1)
    found = solve(scheme, build([networks[0]] * 4, symmetry))
    assert found.status == Status.ALREADY_ALIGNED
    for order in jax.device_get(found.orders).values():
        np.testing.assert_array_equal(order, np.broadcast_to(order[0], order.shape))


def test_permuted_client_changes_nothing(scheme):
    networks, symmetry, _ = planted(2)
    before = solve(scheme, build(networks, symmetry)).orders
    rng = np.random.default_rng(5)
    moved = {g: rng.permutation(n) for g, n in SIZES.items()}
    others = [*networks[:2], reorder(networks[2], moved), networks[3]]
    after = solve(scheme, build(others, symmetry)).orders
    for group, order in after.items():
        order, was = np.array(order), np.asarray(before[group])
        order[2] = moved[group][order[2]]
        np.testing.assert_array_equal(order, was)
    one, other = fused(networks, before), fused(others, after)
    for path, leaf in one.items():
        np.testing.assert_allclose(other[path], leaf, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SCHEMES)
def test_two_networks_are_the_two_model_form(name):
    scheme, solver = SCHEMES[name]
    for seed in range(3):
        (a, b), symmetry = independent(10 + seed, count=2)
        many = jax.device_get(solve(scheme, build([a, b], symmetry)))
        two = solve_two(solver, residual_problem(a, b, symmetry), None)
        np.testing.assert_allclose(many.objective, two.objective, rtol=1e-5)
        assert many.status == two.status
        for group, p in two.permutations.items():
            np.testing.assert_array_equal(many.orders[group][1], p)


def test_the_default_for_two_is_its_start_polished():
    (a, b), symmetry = independent(10, count=2)
    many = jax.device_get(solve(MergeMany(start=AllToOne(WALK)), build([a, b], symmetry)))
    two = solve_two(FrankWolfe(), residual_problem(a, b, symmetry), None)
    np.testing.assert_allclose(many.objective, two.objective, rtol=1e-5)
    for group, p in two.permutations.items():
        np.testing.assert_array_equal(many.orders[group][1], p)


@pytest.fixture(scope="module")
def small():
    return [build(*one_layer(seed)) for seed in range(2)]


@pytest.mark.parametrize("name", SCHEMES)
def test_vmap_equals_a_loop_of_bare_calls(name, small):
    scheme = SCHEMES[name][0]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *small)
    batched = jax.device_get(jax.jit(jax.vmap(scheme.solve_many))(stacked))
    for index, problem in enumerate(small):
        single = scheme.solve_many(problem)
        np.testing.assert_allclose(batched.trace[index], single.trace, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(batched.orders["h"][index], single.orders["h"])


def test_vmap_equals_the_loop_where_tensors_join_groups(instances):
    scheme = SCHEMES["merge_many"][0]
    problems = [problem for _, problem, _ in instances[:2]]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    batched = jax.device_get(jax.jit(jax.vmap(scheme.solve_many))(stacked))
    for index, problem in enumerate(problems):
        single = solve(scheme, problem)
        np.testing.assert_allclose(batched.trace[index], single.trace, rtol=1e-4, atol=1e-4)
        for group, order in single.orders.items():
            np.testing.assert_array_equal(batched.orders[group][index], order)


def test_what_others_have_in_common_counts_nothing_in_all_to_one():
    """Two networks that are in one order, and large, but not in that of the first."""
    first = {"w": np.float32([[1.0, 2.0, 3.0, 4.0]])}
    other = {"w": np.float32([[40.0, 10.0, 30.0, 20.0]])}
    symmetry = Symmetry.from_axes({"w": (None, "h")}, first)
    found = solve(AllToOne(WALK), build([first, other, other], symmetry))
    assert found.status == Status.CONVERGED
    np.testing.assert_array_equal(found.orders["h"], [[0, 1, 2, 3], *[[1, 3, 2, 0]] * 2])


@pytest.mark.parametrize("kind", [AllToOne, Sequential, Hierarchical])
def test_keys_reach_the_solver(kind, small):
    """One layer is one assignment, in whatever order the groups are taken."""
    scheme = kind(CoordinateAscent(order="random"))
    with pytest.raises(ValueError, match="needs key="):
        scheme.solve_many(small[0])
    found = solve(scheme, small[0], jax.random.key(0))
    w = np.float64([network["w"] for network in one_layer(0)[0]])
    _, columns = linear_sum_assignment(w[0].T @ w[1], maximize=True)
    np.testing.assert_array_equal(found.orders["h"][1], columns)


def test_a_tree_matches_pairs_first(instances):
    """Four networks: the first two and the last two are matched as pairs are."""
    networks, problem, _ = instances[0]
    found = jax.device_get(solve(Hierarchical(WALK), problem).orders)
    for k, l in ((0, 1), (2, 3)):  # noqa: E741
        symmetry = independent(1)[1]
        pair = residual_problem(networks[k], networks[l], symmetry)
        for group, p in solve_two(WALK, pair, None).permutations.items():
            between = found[group][l][np.argsort(found[group][k])]
            np.testing.assert_array_equal(between, p)


@pytest.mark.parametrize("name", ["sequential", "hierarchical"])
def test_gains_add_up_to_the_objective(name, instances):
    found = solve(SCHEMES[name][0], instances[0][1])
    assert found.trace.shape == (4,)
    assert found.trace[0] == 0
    np.testing.assert_allclose(found.trace[-1], found.objective, rtol=1e-5)


def test_order_decides_what_a_network_sees(instances):
    """The second network of a sequence knows the first alone, as all of all-to-one do."""
    problem = instances[0][1]
    star, chain = (
        jax.device_get(solve(SCHEMES[name][0], problem).orders)
        for name in ("all_to_one", "sequential")
    )
    for group in SIZES:
        np.testing.assert_array_equal(star[group][1], chain[group][1])


def test_merge_many_never_falls(instances):
    for _, problem, _ in instances:
        found = solve(MergeMany(start=None), problem)
        steps = np.concatenate([[objective_at(problem, problem.identity())], found.trace])
        assert (np.diff(steps) >= -1e-4 * np.abs(steps[1:])).all()
        assert found.status == Status.CONVERGED
        assert found.iterations < 100
        assert steps[1] > steps[0]


def test_merge_many_at_random_needs_a_key_and_repeats_with_it(small):
    scheme = MergeMany(CoordinateAscent(order="random"), start=None, order="random")
    with pytest.raises(ValueError, match="needs key="):
        scheme.solve_many(small[0])
    first, again = (scheme.solve_many(small[0], jax.random.key(3)) for _ in range(2))
    assert first.objective == again.objective > objective_at(small[0], small[0].identity())
    np.testing.assert_array_equal(first.orders["h"], again.orders["h"])


def test_merge_many_stays_at_a_local_optimum(instances):
    problem, scheme = instances[0][1], MergeMany(start=None)
    found = solve(scheme, problem)
    again = jax.jit(scheme.ascend)(problem, found.orders)
    assert again.sweep == 1
    for group, order in found.orders.items():
        np.testing.assert_array_equal(again.orders[group], order)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="order is 'forward' or 'random'"):
        MergeMany(order="backward")  # pyright: ignore[reportArgumentType]
    assert Sequential() == Sequential()
