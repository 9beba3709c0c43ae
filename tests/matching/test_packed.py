"""A packed problem is the problem, whatever its nodes and tensors have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity import Linear
from jaxfuse.matching import Problem, build_problem
from jaxfuse.matching.packed import Packed
from jaxfuse.matching.projection import assign, cold_potentials, soften
from jaxfuse.symmetry import infer_chain
from tests.matching.instances import nested_problem, residual_network, residual_problem


def chain(*widths):
    """Two chains whose hidden layers have the given widths."""
    shapes = list(zip((3, *widths), (*widths, 2), strict=True))
    a, b = (
        [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
        for rng in map(np.random.default_rng, (0, 1))
    )
    return build_problem(a, b, infer_chain(a), Linear())


def residual(**sizes):
    (a, symmetry), (b, _) = (residual_network(seed, **sizes) for seed in (0, 1))
    return residual_problem(a, b, symmetry)


PROBLEMS = {
    "chain of one width": lambda: chain(4, 4, 4, 4),
    "chain whose tensors take some of the nodes": lambda: chain(5, 4, 4, 4, 5),
    "residual": lambda: residual(stream=4, inner=3, blocks=3),
    "residual of one width": lambda: residual(stream=4, inner=4, blocks=2),
    "attention": lambda: nested_problem("attention")[0],
    "grouped queries": lambda: nested_problem("grouped_query")[0],
    "recurrent in blocks": lambda: nested_problem("block_recurrent")[0],
}


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]()


def soft_matching(problem):
    rng = np.random.default_rng(0)
    return {g: jnp.asarray(rng.random((n, n)), jnp.float32) for g, n in problem.sizes.items()}


def check_equal(packed, got, want):
    for node, values in packed.unpack(got).items():
        np.testing.assert_allclose(values, want[node], rtol=1e-4, atol=1e-4)


def test_objective_and_scores(problem):
    packed, soft = Packed.of(problem), soft_matching(problem)
    value, slope = jax.jit(jax.value_and_grad(Packed.objective, argnums=1))(
        packed, packed.pack(soft)
    )
    np.testing.assert_allclose(value, jax.jit(Problem.objective)(problem, soft), rtol=1e-4)
    check_equal(packed, slope, jax.jit(Problem.scores)(problem, soft))


def test_scores_at_permutations(problem):
    packed = Packed.of(problem)
    columns = assign(soft_matching(problem), "host", problem.parents)
    got = jax.jit(Packed.scores_at)(packed, packed.pack(columns))
    check_equal(packed, got, jax.jit(Problem.scores_at)(problem, columns))


def test_projections(problem):
    packed, soft = Packed.of(problem), soft_matching(problem)
    check_equal(packed, packed.assign(packed.pack(soft)), assign(soft, "host", problem.parents))
    tau = {node: jnp.float32(0.1 * (i + 1)) for i, node in enumerate(problem.nodes)}
    plans, _ = packed.soften(packed.pack(soft), packed.pack(tau), packed.cold_potentials(), 9)
    cold = cold_potentials(problem.sizes, problem.parents)
    check_equal(packed, plans, soften(soft, tau, cold, 9, problem.parents)[0])


def test_a_program_does_not_grow_with_the_blocks():
    def operations(blocks):
        problem = Packed.of(residual(stream=4, inner=3, blocks=blocks, bias=False))
        values = problem.pack(problem.problem.barycentre())
        return len(jax.make_jaxpr(Packed.scores)(problem, values).eqns)

    assert operations(2) == operations(7)
