"""Read a network from disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from jaxfuse.quiet import only_errors

PyTree = Any


def read(path: str | os.PathLike[str]) -> PyTree:
    """Read the parameters in a safetensors file or an orbax folder.

    Args:
        path: a `.safetensors` file, read into a flat dict by name; or the folder of an orbax
            checkpoint, read into nested dicts and lists.

    Returns:
        The parameters as NumPy arrays, in the layout and the dtypes they were written in.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if what is there is neither, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    if path.is_dir():
        return _read_orbax(path)
    try:
        return safetensors.numpy.load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no readable safetensors file ({error}); give a .safetensors file or the "
            "folder of an orbax checkpoint"
        ) from None


def _read_orbax(path: Path) -> PyTree:
    return OrbaxRestore(path)()


class OrbaxRestore:
    """The folder of an orbax checkpoint, restored as NumPy arrays: as a whole or leaf by leaf.

    Attributes:
        metadata: the tree, with shape and dtype of every leaf.
    """

    def __init__(self, path: Path) -> None:
        # Orbax takes seconds to import: only those pay who read its format.
        import orbax.checkpoint as ocp

        self._path = path
        with self._told(), ocp.PyTreeCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(path.absolute()).item_metadata
            if metadata is None:
                raise ValueError("nothing in it describes a tree of arrays")
            self.metadata = metadata.tree

    def __call__(self, leaf: int | None = None) -> PyTree:
        """Restore the tree, or one leaf by its place among the leaves."""
        import orbax.checkpoint as ocp

        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), self.metadata)
        with self._told(), ocp.PyTreeCheckpointer() as checkpointer:
            if leaf is None:
                return checkpointer.restore(self._path.absolute(), restore_args=as_numpy)
            _, structure = jax.tree.flatten(self.metadata)
            wanted = [ocp.PLACEHOLDER] * structure.num_leaves
            wanted[leaf] = 0
            args = ocp.args.PyTreeRestore(
                item=jax.tree.unflatten(structure, wanted), restore_args=as_numpy
            )
            restored = checkpointer.restore(self._path.absolute(), args=args)
        return jax.tree.leaves(restored)[leaf]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Quiet orbax, and say of which checkpoint a failure is."""
        try:
            with only_errors("absl"):
                yield
        except (ValueError, KeyError, AttributeError, FileNotFoundError) as error:
            raise ValueError(f"{self._path} is no readable orbax checkpoint: {error}") from None
