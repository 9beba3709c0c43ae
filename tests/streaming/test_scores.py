"""Scores, objective and rewritten tensors in pieces of any size, against all of it at once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity import Linear
from jaxfuse.affinity.terms import list_terms
from jaxfuse.checkpoints import write
from jaxfuse.checkpoints.source import open_source
from jaxfuse.matching.build import build_problem
from jaxfuse.matching.nodes import flatten
from jaxfuse.streaming import pieces
from jaxfuse.streaming.memory import Memory, Reader
from jaxfuse.streaming.plan import MEGABYTE, Plan
from jaxfuse.streaming.rewrite import Rewrite
from jaxfuse.streaming.scores import Scorer
from jaxfuse.symmetry import infer_chain, permute
from tests.oracles import nested as oracle
from tests.symmetry import nested

CONV = {
    "conv0.weight": (5, 2, 3, 3),
    "conv1.weight": (4, 5, 3, 3),
    "conv1.bias": (4,),
    "fc0.weight": (7, 4 * 6),
    "fc1.weight": (3, 7),
}


def network(name):
    if name == "conv":
        shapes = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in CONV.items()}
        return CONV, infer_chain(shapes)
    return nested.NETWORKS[name]()


NAMES = ["conv", *nested.NETWORKS]


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
    """Two networks in memory and on disk, and a matching of them."""
    shapes, symmetry = network(request.param)
    a, b = (nested.draw(shapes, seed) for seed in (0, 100))
    folder = tmp_path_factory.mktemp(request.param)
    write(folder / "a.safetensors", a)
    write(folder / "b.safetensors", b)
    write(folder / "b", b)
    return a, b, symmetry, folder, oracle.draw(symmetry, 7)


def make(pair, budget: float, second: str = "b.safetensors") -> Scorer:
    """Return a scorer of the pair: budget 0 is the least there is, 1 has room for everything."""
    _, _, symmetry, folder, _ = pair
    sources = open_source(folder / "a.safetensors"), open_source(folder / second)
    plan = Plan(
        symmetry, (sources[0].leaves, sources[1].leaves), (sources[0].whole, sources[1].whole)
    )
    least = max(need.count for need in plan.needs())
    work = round(least * (1 + budget))
    memory = Memory()
    return Scorer(plan, Reader(sources, memory, 0 if budget < 1 else MEGABYTE), memory, work)


@pytest.mark.parametrize("budget", [0, 0.2, 1])
def test_scores_are_those_of_the_problem(pair, budget):
    a, b, symmetry, _, permutations = pair
    scorer = make(pair, budget)
    problem = build_problem(nested.on_device(a), nested.on_device(b), symmetry, Linear())
    assert scorer.plan.problem.trees == problem.trees
    flat = {node: np.asarray(p) for node, p in flatten(symmetry, permutations).items()}
    wanted = problem.scores_at({node: jnp.asarray(p) for node, p in flat.items()})
    for tree in problem.trees:
        found = {node: np.zeros((problem.sizes[node],) * 2, np.float32) for node in tree}
        with scorer.memory.holding(scorer.plan.score_bytes(tree)):
            assert scorer.add_scores(found, flat)
        for node, scores in found.items():
            np.testing.assert_allclose(scores, wanted[node], rtol=1e-4, atol=1e-4)
    kept = MEGABYTE if budget == 1 else 0
    assert scorer.memory.peak <= scorer.work + kept


def test_terms_with_unknown_nodes_are_left_out(pair):
    a, b, symmetry, _, permutations = pair
    scorer = make(pair, 0)
    problem = build_problem(nested.on_device(a), nested.on_device(b), symmetry, Linear())
    flat = {node: np.asarray(p) for node, p in flatten(symmetry, permutations).items()}
    for node, n in problem.sizes.items():
        found = {node: np.zeros((n, n), np.float32)}
        if not scorer.add_scores(found, flat, known=()):
            assert not np.any(problem.nodes[node])
        np.testing.assert_allclose(found[node], problem.nodes[node], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("budget", "second"), [(0, "b.safetensors"), (1, "b.safetensors"), (0, "b")]
)
def test_objective_is_that_of_numpy(pair, budget, second):
    a, b, symmetry, _, permutations = pair
    scorer = make(pair, budget, second)
    matchings = [
        permutations,
        {g: np.broadcast_to(np.arange(p.shape[-1]), p.shape) for g, p in permutations.items()},
    ]
    flat = [
        {node: np.asarray(p) for node, p in flatten(symmetry, each).items()} for each in matchings
    ]
    wanted = [oracle.objective(a, b, symmetry, each) for each in matchings]
    np.testing.assert_allclose(scorer.value(flat), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("second", ["b.safetensors", "b"])
@pytest.mark.parametrize("budget", [0, 1])
def test_tensors_are_rewritten_as_permute_does(pair, budget, second):
    _, b, symmetry, _, permutations = pair
    scorer = make(pair, budget, second)
    if budget == 0:  # far less than the scores need
        scorer.work = max(scorer.plan.write_bytes(name, 1) for name in b)
    told = []
    rewrite = Rewrite(scorer, permutations, told.append)
    wanted = permute(b, symmetry, permutations)
    for name, array in wanted.items():
        parts = list(rewrite.pieces(name))
        np.testing.assert_array_equal(np.concatenate(parts).reshape(array.shape), array)
    assert told[-1] == 1.0
    assert scorer.memory.peak <= scorer.work + (MEGABYTE if budget else 0)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_compiled_pieces_take_no_more_than_is_counted(dtype):
    """The buffers of the compiled programs lie below what the plan counts for a piece."""
    for name in ("conv", "attention", "stacked_heads"):
        shapes, symmetry = network(name)
        leaves = {p: jax.ShapeDtypeStruct(shape, dtype) for p, shape in shapes.items()}
        plan = Plan(symmetry, (leaves, leaves), (False, False))
        for term in list_terms(symmetry):
            form = pieces._form(term, tuple(pieces.block_shape(term)))
            piece = jax.ShapeDtypeStruct(form.tensor.shape, dtype)
            sizes = [math.prod(piece.shape[axis] for axis in c.axes) for c in term.carriers]
            columns = [jax.ShapeDtypeStruct((n,), np.int32) for n in sizes]
            for slot in (None, *range(len(sizes))):
                if slot is None:
                    lowered = pieces._value.lower(piece, piece, columns, term=form)
                else:
                    lowered = pieces._scores.lower(piece, piece, columns, term=form, slot=slot)
                used = lowered.compile().memory_analysis()
                cut = plan.cut(term, slot, 2**40)
                assert cut is not None
                taken = used.temp_size_in_bytes + used.output_size_in_bytes
                assert taken <= cut.bytes, (name, term, slot)
