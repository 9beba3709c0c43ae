"""Options that would have no effect."""

import dataclasses
from collections.abc import Sequence
from typing import Any


def refuse_given(command: Any, names: Sequence[str], reason: str) -> None:
    """Refuse options that differ from their defaults where they would be ignored in silence.

    Args:
        command: an instance of a command's dataclass.
        names: fields of it.
        reason: what to say after the option.

    Raises:
        ValueError: with the first of them that was given.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(command)}
    for name in names:
        if getattr(command, name) != defaults[name]:
            raise ValueError(f"--{name.replace('_', '-')} {reason}")
