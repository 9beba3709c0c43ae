"""Write a symmetry as JSON, and read it back."""

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from jaxfuse.symmetry.axes import Activation, TensorAxes
from jaxfuse.symmetry.spec import Symmetry

FORMAT = 1
_KEYS = ("format", "groups", "over", "pinned", "leaves", "activations")


def to_json(symmetry: Symmetry) -> str:
    """Write a symmetry as JSON text, a line for each group, pinned axis and leaf.

    Equal symmetries give equal texts. What a leaf does not need (`edge`, `index`, ...) is left out.

    Args:
        symmetry: the symmetry.

    Returns:
        A text in ASCII that ends with a line break.

    Examples:
        >>> print(to_json(Symmetry((("h", 4),), (TensorAxes("bias", (4,), ("h",)),))))
        {
          "format": 1,
          "groups": [
            ["h", 4]
          ],
          "over": [],
          "pinned": [],
          "leaves": [
            {"path": "bias", "shape": [4], "groups": ["h"]}
          ],
          "activations": []
        }
    """
    lists = {
        "groups": symmetry.sizes,
        "over": symmetry.over,
        "pinned": symmetry.pinned,
        "leaves": [_entry(tensor) for tensor in symmetry.tensors],
        "activations": [{"role": a.role, **_entry(a.tensor)} for a in symmetry.activations],
    }
    written = [f'  "format": {FORMAT}']
    for key, rows in lists.items():
        lines = ",\n".join(f"    {json.dumps(row, default=operator.index)}" for row in rows)
        written.append(f'  "{key}": [\n{lines}\n  ]' if rows else f'  "{key}": []')
    return "{\n" + ",\n".join(written) + "\n}\n"


def from_json(text: str) -> Symmetry:
    """Read a symmetry from JSON text, `to_json` turned round.

    Args:
        text: what `to_json` wrote.

    Returns:
        A symmetry equal to the one that was written.

    Raises:
        ValueError: for what is no JSON, another format, unknown keys, values of a wrong type, and
            groups, axes and blocks that do not agree; with the entry.

    Examples:
        >>> symmetry = Symmetry((("h", 4),), (TensorAxes("bias", (4,), ("h",)),))
        >>> from_json(to_json(symmetry)) == symmetry
        True
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the text is no JSON: {error}") from error
    if not isinstance(data, dict) or "format" not in data:
        raise ValueError('the text is no symmetry: it has no "format"')
    if data["format"] != FORMAT:
        raise ValueError(
            f"the text has the format {data['format']!r}, and this version reads {FORMAT}: write "
            "it again, or read it with the version that wrote it"
        )
    if set(data) != set(_KEYS):
        raise ValueError(f"a symmetry has the entries {_KEYS}, and the text has {tuple(data)}")
    symmetry = Symmetry(
        _listed(data, "groups", _group),
        _listed(data, "leaves", _tensor),
        _listed(data, "over", _context),
        _listed(data, "pinned", _pin),
        _listed(data, "activations", _activation),
    )
    _check(symmetry)
    return symmetry


_REQUIRED = tuple(field.name for field in fields(TensorAxes) if field.default is MISSING)
_DEFAULTS = {
    field.name: field.default for field in fields(TensorAxes) if field.name not in _REQUIRED
}


def _entry(tensor: TensorAxes) -> dict[str, Any]:
    values = {field.name: getattr(tensor, field.name) for field in fields(TensorAxes)}
    return {
        name: value
        for name, value in values.items()
        if name in _REQUIRED or value != _DEFAULTS[name]
    }


def _listed(data: Mapping[str, Any], key: str, read: Callable[[Any], Any]) -> tuple[Any, ...]:
    rows = data[key]
    if not isinstance(rows, list):
        raise ValueError(f"{key!r} must be a list, and is {rows!r}")
    values = []
    for number, row in enumerate(rows):
        try:
            values.append(read(row))
        except (TypeError, ValueError) as error:
            raise ValueError(f"entry {number} of {key!r}, {json.dumps(row)}: {error}") from error
    return tuple(values)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no string")
    return value


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no number of 0, 1, 2, ...")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no integer")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _many(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is no list")
        return tuple(read(each) for each in value)

    return read_all


def _record(*readers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(readers):
            raise ValueError(f"{value!r} is no list of {len(readers)}")
        return tuple(read(each) for read, each in zip(readers, value, strict=True))

    return read


_group = _record(_string, _natural)
_context = _record(_string, _many(_string))
_pin = _record(_string, _natural, _string)
_run = _record(_natural, _natural, _integer)
_READERS: dict[str, Callable[[Any], Any]] = {
    "path": _string,
    "shape": _many(_natural),
    "groups": _many(_optional(_string)),
    "edge": _many(_natural),
    "statistic": _boolean,
    "output": _optional(_natural),
    "pins": _many(_optional(_string)),
    "index": _many(_optional(_many(_run))),
}


def _tensor(value: Any) -> TensorAxes:
    if not isinstance(value, dict):
        raise ValueError("an array is an object")
    for name in _REQUIRED:
        if name not in value:
            raise ValueError(f"{name!r} is missing")
    for name in value:
        if name not in _READERS:
            raise ValueError(f"{name!r} is none of {tuple(_READERS)}")
    return TensorAxes(**{name: _READERS[name](each) for name, each in value.items()})


def _activation(value: Any) -> Activation:
    role = value.pop("role", None) if isinstance(value, dict) else None
    if role not in ("input", "output"):
        raise ValueError(f"the role of an activation is 'input' or 'output', and not {role!r}")
    return Activation(role, _tensor(value))


def _check(symmetry: Symmetry) -> None:
    """Refuse names and sizes that do not agree."""
    sizes = symmetry.groups | {name: size for name, size, _ in symmetry.pinned}
    if len(sizes) != len(symmetry.sizes) + len(symmetry.pinned):
        names = [name for name, *_ in (*symmetry.sizes, *symmetry.pinned)]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} is given to two groups or pinned axes")
    for group, contexts in symmetry.over:
        for name in (group, *contexts):
            if name not in sizes:
                raise ValueError(f"{group!r} is over {contexts}, and nothing is named {name!r}")
    for tensor in (*symmetry.tensors, *(each.tensor for each in symmetry.activations)):
        axes = range(len(tensor.shape))
        if len(tensor.groups) != len(axes) or len(tensor.pins) not in (0, len(axes)):
            raise ValueError(
                f"array {tensor.path!r} is viewed as {tensor.shape}, and has the groups "
                f"{tensor.groups} and the pins {tensor.pins}: one is needed for each axis"
            )
        if any(axis not in axes for axis in (*tensor.edge, tensor.output or 0) if axes):
            raise ValueError(f"array {tensor.path!r} names an axis that {tensor.shape} has not")
        for size, group in zip(tensor.shape, tensor.groups, strict=True):
            if group is not None and symmetry.groups.get(group) != size:
                raise ValueError(
                    f"array {tensor.path!r} gives group {group!r} {size} units, and the group has "
                    f"{symmetry.groups.get(group)}"
                )
