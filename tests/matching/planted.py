"""What every matcher is asked: planted matchings, and the same answer however it is called."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.symmetry import permute, random_permutations
from tests.matching.instances import residual_network, residual_problem


def planted(seeds, noise=0.2):
    """Return problems of networks and their noisy permuted copies, and the matchings to find."""
    problems, truths = [], []
    for seed in seeds:
        params, symmetry = residual_network(seed, stream=8, inner=8, blocks=1, bias=False)
        shuffle = jax.jit(lambda tree, p, s=symmetry: permute(tree, s, p))
        order = random_permutations(symmetry, jax.random.key(seed))
        rng = np.random.default_rng(50 + seed)
        noisy = {
            path: np.asarray(leaf) + noise * rng.standard_normal(leaf.shape).astype(np.float32)
            for path, leaf in params.items()
        }
        problems.append(residual_problem(params, shuffle(noisy, order), symmetry))
        truths.append({group: np.argsort(p) for group, p in order.items()})
    return problems, truths


def check_recovered(matching, truth):
    """The matching is the planted one."""
    for group, columns in truth.items():
        np.testing.assert_array_equal(matching.permutations[group], columns)


def check_calls(solver, key, problems):
    """Get the same from a bare loop over problems and from one compiled call under `vmap`, twice.

    Returns the results of the loop.
    """
    loop = [solver.solve(problem, key=key) for problem in problems]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    batched = jax.jit(jax.vmap(lambda p: solver.solve(p, key=key)))
    together = batched(stacked)
    for index, single in enumerate(loop):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], together)
        chex.assert_trees_all_close(one, single, rtol=1e-3, atol=1e-3)
    chex.assert_trees_all_equal(batched(stacked), together)
    return loop


def check_planted(solver, key, seeds=(0, 1)):
    """Find planted matchings, however the solver is called."""
    problems, truths = planted(seeds)
    for matching, truth in zip(check_calls(solver, key, problems), truths, strict=True):
        check_recovered(matching, truth)
