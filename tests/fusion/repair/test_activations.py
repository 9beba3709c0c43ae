import chex
import jax
import numpy as np
import pytest

from jaxfuse.fusion.repair import RepairActivations
from tests.fusion.repair.conftest import SHARES, as_layers
from tests.oracles import repair as oracle


@pytest.mark.parametrize("kind", ["repair", "rescale", "reshift"])
@pytest.mark.parametrize("closed_form", [False, True])
def test_statistics_are_those_of_the_paper(merger, kind, closed_form):
    got = RepairActivations(kind, closed_form).repair(merger)
    parents = [as_layers(parent) for parent in merger.parents]
    x = np.float64(merger.inputs[0])
    want = oracle.repair(as_layers(merger.fused), parents, SHARES, x, kind, closed_form)
    for layer, (kernel, bias) in zip(got, want, strict=True):
        np.testing.assert_allclose(layer["kernel"], kernel, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(layer["bias"], bias, rtol=2e-4, atol=2e-5)
    chex.assert_trees_all_equal(got[-1], merger.fused[-1])


def test_equal_parents_need_no_repair(merger):
    same = merger._replace(fused=merger.parents[0], parents=(merger.parents[0],) * 2)
    chex.assert_trees_all_close(
        RepairActivations().repair(same), merger.parents[0], rtol=1e-4, atol=1e-5
    )


def test_jit_equals_bare(merger):
    compiled = jax.jit(lambda fused: RepairActivations().repair(merger._replace(fused=fused)))
    want = RepairActivations().repair(merger)
    chex.assert_trees_all_close(compiled(merger.fused), want, rtol=1e-5, atol=1e-6)


def test_a_dead_unit_stays_finite(merger):
    dead = jax.tree.map(lambda leaf: leaf, merger.fused)
    dead[0]["kernel"] = dead[0]["kernel"].at[:, 0].set(0.0)
    got = RepairActivations().repair(merger._replace(fused=dead))
    chex.assert_tree_all_finite(got)


def test_data_are_asked_for(merger):
    with pytest.raises(ValueError, match="pass apply_fn= and inputs="):
        RepairActivations().repair(merger._replace(inputs=()))
    with pytest.raises(ValueError, match="none of 'repair'"):
        RepairActivations("both")  # pyright: ignore
