"""A folder of decoded arrays, so that a dataset is decoded once."""

import hashlib
import logging
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxfuse.atomic import replacing

_logger = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/jaxfuse`, or `~/.cache/jaxfuse` where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxfuse"


def fingerprint(files: Iterable[Path], *words: str) -> str:
    """Name the state of some files: their names, sizes and times of change, and some words.

    Args:
        files: Files that exist.
        *words: What else tells two cache entries apart.

    Returns:
        Hexadecimal digest of 32 characters. A file that is replaced, or changed, gives another.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    for word in words:
        digest.update(f"{word}\0".encode())
    return digest.hexdigest()[:32]


def read(path: Path) -> dict[str, np.ndarray] | None:
    """Read cached arrays.

    Args:
        path: The `.npz` file.

    Returns:
        Its arrays by name, or None where there is no file or not a whole one.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        _logger.warning("cache file %s is damaged and will be written anew", path)
        return None


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to a cache file, whole or not at all.

    A folder that cannot be written to is logged and otherwise ignored: a cache is no duty.

    Args:
        path: The `.npz` file, replaced where it exists.
        arrays: What to write, by name.
    """
    try:
        # A name of its own for each writer: two processes may decode the same dataset at once.
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        _logger.warning("cannot cache decoded images in %s: %s", path.parent, error)
