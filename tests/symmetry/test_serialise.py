import json

import numpy as np
import pytest
from hypothesis import given, settings

from jaxfuse.symmetry import Symmetry, TensorAxes
from jaxfuse.symmetry.axes import Activation
from jaxfuse.symmetry.serialise import from_json, to_json
from tests.symmetry.strategies import symmetries

HEADS = Symmetry(
    (("heads", 4), ("units", 8)),
    (
        TensorAxes(
            "qkv/kernel",
            (5, 4, 8),
            (None, "heads", "units"),
            output=2,
            pins=("input", None, None),
            index=(None, ((0, 32, 1),)),
        ),
        TensorAxes("bn/mean", (8,), ("units",), statistic=True),
    ),
    (("units", ("heads",)),),
    (("input", 5, "input"),),
    (Activation("output", TensorAxes("mul:3", (2, 4, 8), (None, "heads", "units"))),),
)


@settings(deadline=None, max_examples=40)
@given(symmetries())
def test_round_trip(symmetry):
    again = from_json(to_json(symmetry))
    assert again == symmetry
    assert again.activations == symmetry.activations
    assert hash(again) == hash(symmetry)
    assert to_json(again) == to_json(symmetry)


def test_methods_are_the_functions():
    assert HEADS.to_json() == to_json(HEADS)
    assert Symmetry.from_json(HEADS.to_json()) == HEADS


def test_text_has_a_line_for_each_entry():
    text = to_json(HEADS)
    assert text.isascii()
    assert text.endswith("}\n")
    assert json.loads(text)["format"] == 1
    for line in (
        '    ["heads", 4],',
        '    ["units", ["heads"]]',
        '    {"path": "bn/mean", "shape": [8], "groups": ["units"], "statistic": true}',
    ):
        assert line in text.splitlines()


def test_numpy_sizes_are_written_as_numbers():
    axes = TensorAxes("w", (np.int64(8),), ("h",))  # pyright: ignore
    symmetry = Symmetry((("h", np.int64(8)),), (axes,))  # pyright: ignore
    assert from_json(to_json(symmetry)) == symmetry


def _changed(**entries):
    return json.dumps({**json.loads(to_json(HEADS)), **entries})


def _without(name):
    return json.dumps({k: v for k, v in json.loads(to_json(HEADS)).items() if k != name})


LEAF = {"path": "w", "shape": [4], "groups": ["heads"]}


CASES = {
    "cut_off": ("{", "is no JSON"),
    "list": ("[1]", "is no symmetry"),
    "number": ("3", "is no symmetry"),
    "no_format": (_without("format"), "is no symmetry"),
    "other_format": (_changed(format=2), r"has the format 2, and this version reads 1"),
    "missing_entry": (_without("over"), "a symmetry has the entries"),
    "extra_entry": (_changed(extra=1), "a symmetry has the entries.*'extra'"),
    "groups_as_object": (_changed(groups={"h": 4}), "'groups' must be a list"),
    "group_of_three": (
        _changed(groups=[["h", 4, 5]]),
        r"entry 0 of 'groups', \[.h., 4, 5\].*no list of 2",
    ),
    "fractional_size": (_changed(groups=[["h", 4.0]]), "4.0 is no number"),
    "boolean_size": (_changed(groups=[["h", True]]), "True is no number"),
    "negative_size": (_changed(groups=[["h", -4]]), "-4 is no number"),
    "numeric_name": (_changed(groups=[[4, 4]]), "4 is no string"),
    "context_missing": (
        _changed(groups=[["units", 8]]),
        "'units' is over .'heads',., and nothing is named",
    ),
    "group_twice": (
        _changed(groups=[["heads", 4], ["units", 8], ["heads", 4]]),
        "'heads' is given to two",
    ),
    "pin_named_as_group": (_changed(pinned=[["heads", 4, "?"]]), "'heads' is given to two"),
    "over_of_nothing": (_changed(over=[["none", ["heads"]]]), "nothing is named 'none'"),
    "leaf_as_number": (_changed(leaves=[3]), "entry 0 of 'leaves'.*an object"),
    "leaf_without_groups": (_changed(leaves=[{"path": "w", "shape": [4]}]), "'groups' is missing"),
    "leaf_with_a_colour": (_changed(leaves=[{**LEAF, "colour": 1}]), "'colour' is none of"),
    "shape_as_number": (
        _changed(leaves=[LEAF, {**LEAF, "shape": 4}]),
        "entry 1 of 'leaves'.*4 is no list",
    ),
    "numeric_boolean": (_changed(leaves=[{**LEAF, "statistic": 1}]), "1 is neither true nor false"),
    "output_as_text": (_changed(leaves=[{**LEAF, "output": "0"}]), "'0' is no number"),
    "fractional_run": (_changed(leaves=[{**LEAF, "index": [[[0, 1, 1.5]]]}]), "1.5 is no integer"),
    "other_size": (
        _changed(leaves=[{**LEAF, "shape": [5]}]),
        "gives group 'heads' 5 units, and .* has 4",
    ),
    "other_group": (
        _changed(leaves=[{**LEAF, "groups": ["other"]}]),
        "gives group 'other' 4 units",
    ),
    "too_few_groups": (
        _changed(leaves=[{**LEAF, "groups": []}]),
        r"viewed as \(4,\), and has the groups \(\)",
    ),
    "too_many_pins": (_changed(leaves=[{**LEAF, "pins": ["a", "b"]}]), r"the pins \('a', 'b'\)"),
    "edge_outside": (_changed(leaves=[{**LEAF, "edge": [1]}]), "names an axis that"),
    "output_outside": (_changed(leaves=[{**LEAF, "output": 1}]), "names an axis that"),
    "activation_without_role": (_changed(activations=[LEAF]), "the role of an activation"),
    "activation_of_both": (_changed(activations=[{**LEAF, "role": "both"}]), "and not 'both'"),
    "activation_as_number": (_changed(activations=[3]), "the role of an activation"),
}


@pytest.mark.parametrize(("text", "message"), CASES.values(), ids=CASES)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text)
