"""A function of the user's own, called by its name; its failures as one line."""

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "<",
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


def call_factory(name: str) -> tuple[Any, ...]:
    """Import a function and call it.

    Args:
        name: `package.module:function`, found as Python finds it and in the current folder; or
            `path/file.py:function`.

    Returns:
        What it returns.

    Raises:
        ValueError: if it can't be imported or called, fails, or returns no tuple of one entry and
            more.
    """
    place, _, attribute = name.rpartition(":")
    folder = Path.cwd()
    if place.endswith(".py"):
        folder, place = Path(place).parent.absolute(), Path(place).stem
    if not all(word.isidentifier() for word in (*place.split("."), attribute)):
        raise ValueError(
            f"{name!r} names no function: write package.module:function or file.py:function"
        )
    sys.path.insert(0, str(folder))
    try:
        with in_one_line(f"can't import {name}"):
            factory = getattr(importlib.import_module(place), attribute)
        if not callable(factory):
            raise ValueError(f"{name} is no function, but {type(factory).__name__}")
        with in_one_line(f"{name} failed"):
            call = factory()
    finally:
        sys.path.remove(str(folder))
    if not isinstance(call, tuple) or not call:
        got = "an empty tuple" if call == () else type(call).__name__
        raise ValueError(
            f"{name} returned {got}: return a tuple of the module and its inputs, or of the "
            "function, its parameters and its inputs"
        )
    return call


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn any failure of the user's code into one line with its place, and keep our own."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
        if not own and isinstance(error, ValueError):
            raise
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
        raise ValueError(f"{what}: {reason}{place}") from error
