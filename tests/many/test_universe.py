"""Universes wider than the networks: units without a partner stay alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.many import GAMF, MergeMany, UniverseFrankWolfe
from jaxfuse.status import Status
from jaxfuse.symmetry import Symmetry
from tests.many.instances import AXES, build, independent, objective_at, solve
from tests.oracles import many as oracle

POLISH = MergeMany(start=None)
WIDE = {
    "universe_frank_wolfe": UniverseFrankWolfe(width=1.5, polish=POLISH),
    "gamf": GAMF(width=1.5, gamma=0.5, max_sweeps=2, polish=POLISH),
}


@pytest.fixture(scope="module")
def strangers():
    """Three networks of three common units and one of its own, in random orders."""
    rng = np.random.default_rng(0)
    networks, own = [], []
    for k in range(3):
        angle = 2 * np.pi * k / 3
        alone = np.array([-0.5, -0.5, -0.5, 2 * np.cos(angle), 2 * np.sin(angle)])
        units = np.concatenate([np.eye(3, 5), alone[None]])
        order = rng.permutation(4) if k else np.arange(4)
        networks.append({"w": jnp.asarray(units[order].T, jnp.float32)})
        own.append(int(np.argmax(order == 3)))
    symmetry = Symmetry.from_axes({"w": (None, "h")}, networks[0])
    return networks, symmetry, own


@pytest.mark.parametrize("name", WIDE)
def test_units_without_a_partner_stay_alone(name, strangers):
    networks, symmetry, own = strangers
    found = solve(WIDE[name], build(networks, symmetry))
    order = np.asarray(found.orders["h"])
    assert order.shape == (3, 6)
    np.testing.assert_array_equal(order[0], [0, 1, 2, 3, -1, -1])
    present = order >= 0
    np.testing.assert_array_equal(present.sum(1), [4, 4, 4])
    for k, unit in enumerate(own):
        slot = int(np.argmax(order[k] == unit))
        assert present[:, slot].sum() == 1, (k, order)
    assert present[:, :3].all()
    np.testing.assert_allclose(found.objective, 9.0, rtol=1e-5)
    assert found.status == Status.CONVERGED
    narrow = solve(MergeMany(start=None), build(networks, symmetry))
    assert narrow.objective < 9.0 - 1


def test_wide_orders_of_linked_groups():
    networks, symmetry = independent(1)
    found = solve(UniverseFrankWolfe(width=1.5, polish=None), build(networks, symmetry))
    for group, wide in (("r", 6), ("h0", 5)):
        order = np.asarray(found.orders[group])
        assert order.shape == (4, wide)
        for row in order:
            kept = np.sort(row[row >= 0])
            np.testing.assert_array_equal(kept, np.arange(len(kept)))
            assert len(kept) == {"r": 4, "h0": 3}[group]
    want = oracle.objective_at(networks, AXES, found.orders)
    np.testing.assert_allclose(found.objective, want, rtol=1e-4)
    problem = build(networks, symmetry)
    np.testing.assert_allclose(objective_at(problem, found.orders), want, rtol=1e-4)
