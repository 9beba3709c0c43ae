"""What every matcher is asked: planted matchings, and the same answer however it is called."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.symmetry import permute, random_permutations
from tests.matching.instances import residual_network, residual_problem, solve


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


def check_planted(solver, key, seeds=(0, 1)):
    """Find planted matchings; then the same without `jit`, under `vmap`, and once more."""
    problems, truths = planted(seeds)
    singles = [solve(solver, problem, key) for problem in problems]
    for matching, truth in zip(singles, truths, strict=True):
        for group, columns in truth.items():
            np.testing.assert_array_equal(matching.permutations[group], columns)
    chex.assert_trees_all_equal(solve(solver, problems[0], key), singles[0])
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-3, atol=1e-3)
    close(solver.solve(problems[0], key=key), singles[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    batched = jax.jit(jax.vmap(lambda p: solver.solve(p, key=key)))(stacked)
    for index, single in enumerate(singles):
        close(jax.tree.map(lambda leaf, i=index: leaf[i], batched), single)
