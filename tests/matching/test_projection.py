import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.assignment import Potentials, hungarian, sinkhorn
from jaxfuse.matching.projection import assign, soften


def test_groups_of_several_sizes_are_projected_one_by_one(key):
    whole = jax.random.normal(key, (3, 4, 4))
    scores = {"b": whole[0], "a": whole[1, :3, :3], "c": whole[2]}
    hard = assign(scores)
    taus = {g: jnp.float32(0.5 + i) for i, g in enumerate(scores)}
    zeros = {g: Potentials(jnp.zeros(len(s)), jnp.zeros(len(s))) for g, s in scores.items()}
    plans, potentials = jax.jit(soften, static_argnums=3)(scores, taus, zeros, 30)
    assert list(hard) == list(scores)
    for group, matrix in scores.items():
        np.testing.assert_array_equal(hard[group], hungarian(matrix).columns)
        want = sinkhorn(matrix, taus[group], iterations=30)
        np.testing.assert_allclose(plans[group], want.plan, atol=1e-5)
        np.testing.assert_allclose(potentials[group].row, want.potentials.row, atol=1e-4)
