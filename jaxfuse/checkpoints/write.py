"""Write a network to disk, whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.flax

from jaxfuse.quiet import only_errors
from jaxfuse.symmetry.tree import named_leaves

PyTree = Any


def write(path: str | os.PathLike[str], params: PyTree, *, force: bool = False) -> None:
    """Write parameters to a safetensors file, or to an orbax folder if the path has no suffix.

    The file is written beside its place and moved there when it is complete, so a kill leaves
    either the old state or the new one.

    Args:
        path: where; `.safetensors` gives a safetensors file with one name per leaf, no suffix an
            orbax folder.
        params: a tree of arrays.
        force: whether something that is there already may be replaced.

    Raises:
        FileExistsError: if the path exists and `force` is not set.
        ValueError: for another suffix.
    """
    path = Path(path)
    check_writable(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        complete = scratch / path.name
        if path.suffix == ".safetensors":
            arrays = {name: jax.numpy.asarray(leaf) for name, leaf in named_leaves(params).items()}
            safetensors.flax.save_file(arrays, complete)
        else:
            import orbax.checkpoint as ocp  # takes seconds: only those pay who write its format

            with only_errors("absl"), ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(complete.absolute(), jax.tree.map(np.asarray, params))
        if path.is_dir():
            os.replace(path, scratch / "replaced")
        os.replace(complete, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse a path that is taken or has a suffix nothing is known of, before any work is done."""
    if path.suffix not in ("", ".safetensors"):
        raise ValueError(
            f"can't write {path}: end it in .safetensors, or give it no suffix for an orbax folder"
        )
    if path.exists() and not force:
        raise FileExistsError(
            f"{path} exists: choose another output, or pass --force to replace it"
        )
