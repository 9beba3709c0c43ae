import jax
import jax.numpy as jnp
import pytest

from jaxfuse.symmetry import Symmetry, TensorAxes, infer_chain
from jaxfuse.symmetry.coverage import coverage
from tests.symmetry.networks import torch_state

SHAPES = {"in": (3, 8), "out": (8, 2), "bias": (2,)}
PARAMS = {path: jnp.ones(shape) for path, shape in SHAPES.items()}
AXES = {"in": (None, "h"), "out": ("h", None)}


@pytest.mark.parametrize(
    "params", [PARAMS, jax.eval_shape(lambda: PARAMS)], ids=["arrays", "shapes"]
)
def test_share_of_the_entries(params):
    symmetry = Symmetry.from_axes(AXES, params)
    assert coverage(symmetry, params) == pytest.approx(40 / 42)
    assert symmetry.coverage(params) == coverage(symmetry, params)


def test_statistics_and_other_leaves_do_not_count():
    params = {**PARAMS, "mean": jnp.ones(8), "moment": jnp.ones(8), "step": jnp.int32(1), "f": abs}
    symmetry = Symmetry.from_axes({**AXES, "moment": ("h",)}, params)
    kept = tuple(t for t in symmetry.tensors if t.path != "moment")
    moment = TensorAxes("moment", (8,), ("h",), statistic=True)
    marked = Symmetry(symmetry.sizes, (*kept, moment))
    assert coverage(marked, params) == pytest.approx(40 / 42)
    assert coverage(symmetry, params) == pytest.approx(48 / 50)


def test_a_network_but_for_its_last_bias():
    params, _, _ = torch_state()
    weights = sum(leaf.size for path, leaf in params.items() if "running" not in path)
    assert coverage(infer_chain(params), params) == pytest.approx(1 - 3 / weights)


def test_blocks_count_apart():
    halves = (
        TensorAxes("in", (3, 2), (None, "h"), index=(None, ((0, 2, 1),))),
        TensorAxes("in", (3, 6), (None, None), index=(None, ((2, 6, 1),))),
    )
    assert coverage(Symmetry((("h", 2),), halves), {"in": PARAMS["in"]}) == pytest.approx(6 / 24)


@pytest.mark.parametrize("params", [{}, {"step": jnp.int32(1)}], ids=["empty", "counter"])
def test_no_parameters_are_covered_by_nothing(params):
    assert coverage(Symmetry((), ()), params) == 0.0


def test_parameters_of_another_model_are_refused():
    with pytest.raises(ValueError, match="speaks of leaf 'out'"):
        coverage(Symmetry.from_axes(AXES, PARAMS), {"in": PARAMS["in"]})
