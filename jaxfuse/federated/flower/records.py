"""Parameters as Flower's records of named arrays."""

from typing import Any

import numpy as np
from flax import traverse_util
from flwr.app import Array, ArrayRecord

from jaxfuse.models.functional import Params
from jaxfuse.symmetry.tree import named_leaves

PyTree = Any

_UNSIGNED = {1: np.uint8, 2: np.uint16}


def to_record(params: PyTree) -> ArrayRecord:
    """Write parameters as a record, each array under the path of its leaf.

    NumPy's file format, in which Flower sends arrays, has no bfloat16 and no 8-bit floats: their
    bits travel as unsigned integers, and the dtype beside them. Only `from_record` and
    `named_arrays` read such arrays; Flower's own strategies would average the bits.

    Args:
        params: nested dict of arrays, as `jaxfuse.models.functional` returns it; or any tree, whose
            containers `from_record` does not give back.

    Returns:
        The record, with names as "dense/0/kernel".

    Raises:
        ValueError: two leaves have one path.

    Examples:
        >>> import jax.numpy as jnp
        >>> record = to_record({"dense": {"kernel": jnp.ones((2, 3), jnp.bfloat16)}})
        >>> list(record), record["dense/kernel"].dtype
        (['dense/kernel'], 'bfloat16')
        >>> from_record(record)["dense"]["kernel"].dtype
        dtype(bfloat16)
    """
    return ArrayRecord({name: _encode(leaf) for name, leaf in named_leaves(params).items()})


def from_record(record: ArrayRecord) -> Params:
    """Read parameters from a record.

    Args:
        record: a record that `to_record` wrote, or one of any client with such names.

    Returns:
        Nested dict with string keys and NumPy arrays.

    Raises:
        ValueError: an array cannot be read, or one name is the beginning of another.
    """
    arrays = named_arrays(record)
    for name in arrays:
        parts = name.split("/")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in arrays:
                raise ValueError(
                    f"{'/'.join(parts[:end])!r} is an array and holds {name!r}: rename one"
                )
    return traverse_util.unflatten_dict(arrays, sep="/")


def named_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Read the arrays of a record by their names.

    Args:
        record: the record.

    Raises:
        ValueError: an array cannot be read.

    Examples:
        >>> named_arrays(to_record({"a": {"b": np.ones(2)}}))
        {'a/b': array([1., 1.])}
    """
    return {name: _decode(name, array) for name, array in record.items()}


def _encode(leaf: Any) -> Array:
    array = np.asarray(leaf)
    if not _is_foreign(array.dtype):
        return Array(array)
    bits = Array(array.view(_UNSIGNED[array.dtype.itemsize]))
    return Array(dtype=array.dtype.name, shape=tuple(array.shape), stype=bits.stype, data=bits.data)


def _decode(name: str, array: Array) -> np.ndarray:
    try:
        read, dtype = array.numpy(), np.dtype(array.dtype)
    except Exception as error:
        # What another process sent may be anything: no kind of error may end the round.
        raise ValueError(f"leaf {name!r} cannot be read: {error}") from error
    if _is_foreign(dtype) and read.dtype.itemsize == dtype.itemsize and read.dtype.kind in "uV":
        return read.view(dtype)
    return read


def _is_foreign(dtype: np.dtype) -> bool:
    """Tell whether a dtype is one of ml_dtypes, which NumPy's files cannot name."""
    return dtype.kind == "V" and dtype.names is None and not dtype.name.startswith("void")
