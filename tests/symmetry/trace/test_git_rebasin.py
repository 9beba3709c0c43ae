"""Git Re-Basin's permutation tables against what is found in the programs."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxfuse.symmetry import Symmetry, infer_symmetry
from tests.symmetry.trace import rebasin
from tests.symmetry.trace.cases import normal, prove, well_formed


def linen(module: nn.Module, *image: int) -> tuple[Callable[..., Any], Any, Any]:
    images = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    return lambda params, x: module.apply({"params": params}, x), shapes, images


def plain() -> tuple[Callable[..., Any], Any, Any]:
    images = jax.ShapeDtypeStruct((2, 3, 32, 32), jnp.float32)
    return rebasin.resnet50, rebasin.resnet50_shapes(), images


NETWORKS = {
    "mlp": (lambda: linen(rebasin.Mlp(), 28, 28, 1), rebasin.mlp_table(), 3),
    "vgg16": (lambda: linen(rebasin.Vgg16(), 32, 32, 3), rebasin.vgg16_table(), 15),
    "resnet20": (lambda: linen(rebasin.ResNet20(), 16, 16, 3), rebasin.resnet20_table(), 12),
    "resnet50": (plain, rebasin.resnet50_table(), 37),
}


def groups_of_axes(symmetry: Symmetry, params: Any) -> dict[tuple[str, int], set[str]]:
    """Return per axis of every leaf the groups on it, also those on a factor of it."""
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    found = defaultdict(set)
    for tensor in symmetry.tensors:
        assert not tensor.index  # no axis of these networks is a direct sum
        view = list(zip(tensor.shape, tensor.groups, strict=True))
        for axis, size in enumerate(shapes[tensor.path]):
            product = 1
            while product < size:
                factor, group = view.pop(0)
                product *= factor
                if group is not None:
                    found[tensor.path, axis].add(group)
    return found


def labels_of_axes(table: rebasin.Table) -> dict[tuple[str, int], str]:
    """Return the label of every axis that has one."""
    return {
        (path, axis): label
        for path, labels in table.items()
        for axis, label in enumerate(labels)
        if label is not None
    }


@pytest.fixture(params=list(NETWORKS))
def found(request):
    """The symmetry, the table, the parameters and the number of labels of a network."""
    build, table, count = NETWORKS[request.param]
    with jax.numpy_rank_promotion("allow"):
        function, params, images = build()
        symmetry = infer_symmetry(function, params, images)
    return symmetry, table, params, count


def test_tables_name_the_leaves_of_the_networks(found):
    _, table, params, count = found
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }
    floats = {path: len(shape) for path, shape in shapes.items() if "num_batches" not in path}
    assert floats == {path: len(labels) for path, labels in table.items()}
    assert len({label for labels in table.values() for label in labels} - {None}) == count


def test_what_is_found_refines_the_table(found):
    symmetry, table, params, _ = found
    groups, labels = groups_of_axes(symmetry, params), labels_of_axes(table)
    assert all(groups[axis] for axis in labels)
    labels_of_groups = defaultdict(set)
    for axis, label in labels.items():
        for group in groups[axis]:
            labels_of_groups[group].add(label)
    assert all(len(of_group) == 1 for of_group in labels_of_groups.values())


def test_what_is_found_equals_the_table(found):
    symmetry, table, params, count = found
    groups, labels = groups_of_axes(symmetry, params), labels_of_axes(table)
    assert {axis for axis, of_axis in groups.items() if of_axis} == set(labels)
    pairs = {(group, labels[axis]) for axis, of_axis in groups.items() for group in of_axis}
    assert len(pairs) == len(symmetry.groups) == count
    assert not symmetry.over
    well_formed(symmetry, params)


def test_the_reasons_of_what_is_pinned(found):
    symmetry, _, _, _ = found
    assert {reason for _, _, reason in symmetry.pinned} <= {
        "input",
        "output",
        "window of a convolution",
    }


def test_the_function_does_not_change():
    with jax.numpy_rank_promotion("allow"):
        function, shapes, images = linen(rebasin.ResNet20(width=2), 8, 8, 3)
        leaves, structure = jax.tree.flatten(shapes)
        drawn = [normal(*leaf.shape, seed=number) for number, leaf in enumerate(leaves)]
        params = jax.tree.unflatten(structure, drawn)
        inputs = (normal(*images.shape),)
        prove(infer_symmetry(function, shapes, images), function, params, inputs)
