"""Write safetensors files piece by piece: safetensors itself wants all tensors in memory."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from jaxfuse.atomic import replacing
from jaxfuse.checkpoints.source import DTYPES, INDEX, SafetensorsSource, Source, size_of
from jaxfuse.checkpoints.write import move

Pieces = Callable[[str], Iterator[np.ndarray]]


def check_stream_output(path: Path, source: Source, *, force: bool) -> None:
    """Refuse an output that can't be written, before any work is done.

    Raises:
        FileExistsError: if it exists and `force` is not set, or it is no such checkpoint.
        ValueError: if the checkpoint is no folder of safetensors files, and the output no file.
    """
    in_parts = isinstance(source, SafetensorsSource) and source.path.is_dir()
    if path.suffix != ".safetensors" and (path.suffix or not in_parts):
        raise ValueError(
            f"can't write {path}: end it in .safetensors"
            + (", or give a folder no suffix" if in_parts else "")
        )
    if not os.path.lexists(path):
        return
    if not force:
        raise FileExistsError(
            f"{path} exists: choose another output, or pass --force to replace it"
        )
    if not (path.is_file() if path.suffix else (path / INDEX).is_file()):
        raise FileExistsError(
            f"{path} exists and is no such checkpoint, so --force does not replace it: choose "
            "another output, or remove it yourself"
        )


def write_stream(path: Path, source: Source, pieces: Pieces, *, force: bool) -> None:
    """Write a checkpoint like another one, with other values, whole or not at all.

    Args:
        path: a `.safetensors` file, or a folder with the same files as the other one's.
        source: the other one: its names, shapes, dtypes and metadata are kept.
        pieces: gives the values of a tensor, in pieces that follow one another in memory.
        force: whether a checkpoint that is there may be replaced.

    Raises:
        FileExistsError: as `check_stream_output`.
        ValueError: as that, and for a dtype that safetensors has no name for.
    """
    check_stream_output(path, source, force=force)
    if path.suffix:
        metadata = None
        if isinstance(source, SafetensorsSource):
            metadata = source.metadata(source.files[0])
        with replacing(path) as file:
            _write_file(file.write, source.leaves, metadata, pieces)
        return
    assert isinstance(source, SafetensorsSource)
    with _scratch(path) as scratch:
        new = scratch / "new"
        new.mkdir()
        for place in source.files:
            leaves = {n: leaf for n, leaf in source.leaves.items() if source.places[n] == place}
            with (new / place.name).open("wb") as file:
                _write_file(file.write, leaves, source.metadata(place), pieces)
        shutil.copyfile(source.path / INDEX, new / INDEX)
        check_stream_output(path, source, force=force)
        move(new, path, aside=scratch / "old")


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name, so that what a kill has left makes way.
    scratch = path.with_name(f".{path.name}-partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_file(
    write: Callable[[memoryview | bytes], object],
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    metadata: Mapping[str, str] | None,
    pieces: Pieces,
) -> None:
    # The wide dtypes first, so that every tensor is aligned.
    names = sorted(leaves, key=lambda name: (-np.dtype(leaves[name].dtype).itemsize, name))
    write(_header(names, leaves, metadata))
    for name in names:
        written = 0
        for piece in pieces(name):
            flat = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
            write(flat.data)
            written += flat.nbytes
        assert written == size_of(leaves[name]), name


def _header(
    names: Sequence[str],
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    metadata: Mapping[str, str] | None,
) -> bytes:
    """Return the length and the text that a safetensors file begins with."""
    dtypes = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name in names:
        leaf = leaves[name]
        dtype = np.dtype(leaf.dtype)
        if dtype not in dtypes:
            raise ValueError(f"leaf {name!r} has dtype {dtype}, which safetensors can't hold")
        end = begin + size_of(leaf)
        entries[name] = {
            "dtype": dtypes[dtype],
            "shape": list(leaf.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
