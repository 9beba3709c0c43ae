"""Name the leaves of a parameter tree, whatever containers it is made of."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, KeyPath

PyTree = Any


def leaf_path(key_path: KeyPath) -> str:
    """Write the key path of a leaf as `"encoder/0/kernel"`.

    The `.value` that an NNX `Variable` adds below its own name is dropped, so that a state and
    the pure dict made from it have the same paths.
    """
    if len(key_path) > 1 and key_path[-1] in (GetAttrKey("value"), GetAttrKey("raw_value")):
        key_path = key_path[:-1]
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a tree by path, in the tree's own order.

    Raises:
        ValueError: if two leaves have one path, as under the keys "a/b" and "a", then "b".

    Examples:
        >>> list(named_leaves({"dense": [{"kernel": 1.0}, {"kernel": 2.0}]}))
        ['dense/0/kernel', 'dense/1/kernel']
    """
    leaves: dict[str, Any] = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = leaf_path(key_path)
        if path in leaves:
            raise ValueError(f"two leaves are named {path!r}: rename the key that holds a slash")
        leaves[path] = leaf
    return leaves


def leaf_name(path: str) -> str:
    """Return the last part of a path, also of PyTorch's dotted names.

    Examples:
        >>> leaf_name("fc/kernel"), leaf_name("bn1.running_mean")
        ('kernel', 'running_mean')
    """
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[-1]


def map_named(function: Callable[..., Any], tree: PyTree, *others: PyTree) -> PyTree:
    """Map `function(path, leaf, *other_leaves)` over trees of one structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(leaf_path(path), *leaves), tree, *others
    )


def is_weight(leaf: Any) -> bool:
    """Tell whether a leaf is an array of real numbers: what can be matched and averaged.

    Random-number keys, counters, activation functions and static fields are not: they are carried
    along untouched.
    """
    if isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
    return False


def check_same_trees(
    params_a: PyTree, params_b: PyTree, names: tuple[str, str], *, shapes: bool = True
) -> None:
    """Refuse two trees of different structure or shapes, and say at which leaf they part.

    Args:
        params_a: the reference.
        params_b: the other tree.
        names: what to call the two in the message.
        shapes: whether the shapes must agree too.

    Raises:
        ValueError: with the leaf path, both shapes and the remedy.
    """
    name_a, name_b = names
    leaves_a, leaves_b = named_leaves(params_a), named_leaves(params_b)
    for path in [*leaves_a, *leaves_b]:
        for leaves, absent, present in (
            (leaves_a, name_a, name_b),
            (leaves_b, name_b, name_a),
        ):
            if path not in leaves:
                raise ValueError(
                    f"{name_a} and {name_b} are not the same kind of network: leaf {path!r} is in "
                    f"{present} and not in {absent}. Pass two trees made by one architecture."
                )
    if jax.tree.structure(params_a) != jax.tree.structure(params_b):
        raise ValueError(
            f"{name_a} and {name_b} hold the same leaves in different containers "
            f"({jax.tree.structure(params_a)} against {jax.tree.structure(params_b)}). Convert "
            "one of them, for example both to nested dicts."
        )
    for path, leaf in leaves_a.items():
        shape_a, shape_b = np.shape(leaf), np.shape(leaves_b[path])
        if shapes and shape_a != shape_b:
            raise ValueError(
                f"leaf {path!r} has shape {shape_a} in {name_a} and {shape_b} in {name_b}. "
                "Networks of different widths have no permutation between them: align networks "
                "of one width, or pass a method for different ones (jaxfuse.methods)."
            )
