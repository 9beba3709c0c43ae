"""Write a network to disk, whole or not at all."""

import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from jaxfuse.quiet import only_errors
from jaxfuse.symmetry.tree import named_leaves

PyTree = Any
_ORBAX_FILES = ("_CHECKPOINT_METADATA", "_METADATA")


def write(path: str | os.PathLike[str], params: PyTree, *, force: bool = False) -> None:
    """Write parameters to a safetensors file, or to an orbax folder if the path has no suffix.

    What is written lies in a hidden folder beside its place until it is complete, so a failure
    leaves what was there, and a kill leaves either the old file or the new one. A folder that is
    replaced is moved into that hidden folder first: a kill between the two moves leaves it there.

    Args:
        path: where; `.safetensors` gives a safetensors file with one name per leaf, no suffix an
            orbax folder.
        params: a tree of arrays.
        force: whether a checkpoint of the same format that is there already may be replaced.

    Raises:
        FileExistsError: if the path exists and `force` is not set; with `force` if what is there
            is something else than such a checkpoint.
        ValueError: for another suffix.
    """
    path = Path(path)
    check_writable(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        complete = scratch / f"new{path.suffix}"
        if path.suffix == ".safetensors":
            leaves = named_leaves(params)
            arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
            complete.touch()
            mode = stat.S_IMODE((path if path.is_file() else complete).stat().st_mode)
            safetensors.numpy.save_file(arrays, complete)
            complete.chmod(mode)  # safetensors lets nobody but the owner read
        else:
            import orbax.checkpoint as ocp  # takes seconds: only those pay who write its format

            with only_errors("absl"), ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(complete.absolute(), jax.tree.map(np.asarray, params))
        check_writable(path, force=force)  # the work took time: someone else may have been quicker
        move(complete, path, aside=scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def move(new: Path, path: Path, *, aside: Path) -> None:
    """Move a complete file or folder to its place; only a file takes a file's place in one step."""
    if not path.exists() or not (path.is_dir() or new.is_dir()):
        os.replace(new, path)
        return
    os.replace(path, aside)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(aside, path)
        raise


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse a path that is taken or has a suffix nothing is known of, before any work is done."""
    if path.suffix not in ("", ".safetensors"):
        raise ValueError(
            f"can't write {path}: end it in .safetensors, or give it no suffix for an orbax folder"
        )
    if not os.path.lexists(path):
        return
    if not force:
        raise FileExistsError(
            f"{path} exists: choose another output, or pass --force to replace it"
        )
    if path.suffix:
        replaceable, wanted = path.is_file(), "file"
    else:
        replaceable = path.is_dir() and any((path / name).is_file() for name in _ORBAX_FILES)
        wanted = "folder of an orbax checkpoint"
    if not replaceable:
        raise FileExistsError(
            f"{path} exists and is no {wanted}, so --force does not replace it: choose another "
            "output, or remove it yourself"
        )
