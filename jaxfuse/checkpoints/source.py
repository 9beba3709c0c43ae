"""Read a checkpoint tensor by tensor, or a few entries of one, without reading the rest."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxfuse.checkpoints.read import OrbaxRestore
from jaxfuse.symmetry.tree import named_leaves

Where = Mapping[int, np.ndarray]
INDEX = "model.safetensors.index.json"
# What safetensors reads into NumPy, by its names.
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}


class Source(Protocol):
    """A checkpoint on disk whose tensors are read one at a time.

    Attributes:
        path: where it lies.
        leaves: shape and dtype of every tensor by its path in the tree.
    """

    path: Path
    leaves: dict[str, jax.ShapeDtypeStruct]

    @property
    def whole(self) -> bool:
        """Whether a tensor can only be read as a whole."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold it."""
        ...

    def read(self, name: str, where: Where | None = None) -> np.ndarray:
        """Read a tensor, or of some of its axes the entries at given positions."""
        ...


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a checkpoint; only names, shapes and dtypes are read.

    Args:
        path: a `.safetensors` file; a folder with `model.safetensors.index.json` and the files that
            it names, as Hugging Face writes large models; or the folder of an orbax checkpoint.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if what is there is none of them, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    if path.is_file():
        with _opened(path) as file:
            return SafetensorsSource(path, dict.fromkeys(file.keys(), path))
    if (path / INDEX).is_file():
        return SafetensorsSource(path, _read_index(path))
    return OrbaxSource(path)


class SafetensorsSource:
    """A safetensors file, or a folder of several.

    Attributes:
        path: the file or the folder.
        places: the file of every tensor.
        leaves: shape and dtype of every tensor by name.
    """

    def __init__(self, path: Path, places: Mapping[str, Path]) -> None:
        self.path, self.places = path, places
        leaves = {}
        for file in self.files:
            with _opened(file) as opened:
                held = set(opened.keys())
                for name in (name for name, place in places.items() if place == file):
                    if name not in held:
                        raise ValueError(f"{path}: tensor {name!r} is not in {file.name}")
                    leaves[name] = _shape(opened.get_slice(name), name, file)
        self.leaves: dict[str, jax.ShapeDtypeStruct] = dict(sorted(leaves.items()))

    @property
    def whole(self) -> bool:
        """A tensor can be read in parts."""
        return False

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold it."""
        return tuple(dict.fromkeys(self.places.values()))

    def metadata(self, file: Path) -> dict[str, str] | None:
        """Return the text that a file carries beside its tensors."""
        with _opened(file) as opened:
            return opened.metadata()

    def read(self, name: str, where: Where | None = None) -> np.ndarray:
        """Read a tensor, or of some of its axes the entries at given positions.

        Runs of neighbours along the first axis that has gaps are read each by itself; of later
        ones with gaps all entries are read.
        """
        shape = self.leaves[name].shape
        # A file that stays open would keep every page that was read in memory.
        with _opened(self.places[name]) as opened:
            if not where:
                return opened.get_tensor(name)
            runs = {axis: _runs(positions) for axis, positions in where.items()}
            gaps = sorted(axis for axis in runs if len(runs[axis]) != 1)
            cuts = [slice(*runs[a][0]) if a in runs else slice(None) for a in range(len(shape))]
            for axis in gaps:
                cuts[axis] = slice(None)
            later = {axis: where[axis] for axis in gaps[1:]}
            tensor = opened.get_slice(name)
            if not gaps:
                return tensor[tuple(cuts)]
            axis = gaps[0]
            sizes = [len(where[a]) if a in where else size for a, size in enumerate(shape)]
            out = np.empty(sizes, self.leaves[name].dtype)
            begin = 0
            for start, stop in runs[axis]:
                cuts[axis] = slice(start, stop)
                end = begin + stop - start
                at = (slice(None),) * axis + (slice(begin, end),)
                out[at] = take(tensor[tuple(cuts)], later)
                begin = end
            return out


class OrbaxSource:
    """The folder of an orbax checkpoint, whose tensors are read whole: one is one chunk on disk.

    Attributes:
        path: the folder.
        leaves: shape and dtype of every tensor by its path in the tree.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._restore = OrbaxRestore(path)
        self.leaves: dict[str, jax.ShapeDtypeStruct] = {
            name: jax.ShapeDtypeStruct(entry.shape, entry.dtype)
            for name, entry in named_leaves(self._restore.metadata).items()
        }

    @property
    def whole(self) -> bool:
        """A tensor can only be read as a whole."""
        return True

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold it."""
        return tuple(sorted(file for file in self.path.rglob("*") if file.is_file()))

    def read(self, name: str, where: Where | None = None) -> np.ndarray:
        """Read a tensor, and take of some of its axes the entries at given positions."""
        array = np.asarray(self._restore(list(self.leaves).index(name)))
        return take(array, where or {})


def take(array: np.ndarray, where: Where) -> np.ndarray:
    """Take of some axes of an array the entries at given positions.

    Examples:
        >>> take(np.arange(6).reshape(2, 3), {1: np.array([2, 0])}).tolist()
        [[2, 0], [5, 3]]
    """
    cuts = [slice(None)] * array.ndim
    gaps = {}
    for axis, positions in where.items():
        runs = _runs(positions)
        if len(runs) == 1:
            cuts[axis] = slice(*runs[0])
        else:
            gaps[axis] = positions
    array = array[tuple(cuts)]
    for axis, positions in gaps.items():
        array = np.take(array, positions, axis=axis)
    return array


def size_of(leaf: jax.ShapeDtypeStruct) -> int:
    """Return the bytes of a tensor."""
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error})") from None


def _shape(tensor: Any, name: str, file: Path) -> jax.ShapeDtypeStruct:
    if tensor.get_dtype() not in DTYPES:
        raise ValueError(
            f"tensor {name!r} of {file} has dtype {tensor.get_dtype()}, which "
            "safetensors does not read into NumPy: convert it"
        )
    return jax.ShapeDtypeStruct(tuple(tensor.get_shape()), DTYPES[tensor.get_dtype()])


def _read_index(path: Path) -> dict[str, Path]:
    try:
        names = json.loads((path / INDEX).read_text())["weight_map"]
        places = {name: path / file for name, file in names.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path / INDEX} is no index of safetensors files: {error!r}") from None
    for file in places.values():
        if file.parent != path or not file.is_file():
            raise ValueError(f"{path / INDEX} names {file.name}, which is no file in its folder")
    return places


def _runs(positions: np.ndarray) -> list[tuple[int, int]]:
    """Split positions into runs of neighbours, as starts and stops."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    starts = positions[np.concatenate([[0], breaks])]
    stops = positions[np.concatenate([breaks - 1, [len(positions) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))
