"""What a client sent is screened before it goes into an average."""

import ml_dtypes
import numpy as np
import pytest

from jaxfuse.federated.screen import screen

LIKE = {"a": np.zeros((2, 3), np.float32), "b/c": np.zeros(4, np.float32)}


def sent(**changes):
    return {name: changes.get(name, np.ones(leaf.shape, np.float32)) for name, leaf in LIKE.items()}


def test_sound_arrays_pass():
    assert screen(sent(), LIKE) is None


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_])
def test_other_kinds_of_the_same_number_pass(dtype):
    assert screen(sent(a=np.ones((2, 3), dtype)), LIKE) is None


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((3, 2)), r"'a' has shape \(3, 2\), and the model's is \(2, 3\)"),
        (np.float32(1), r"'a' has shape \(\), and"),
        (np.full((2, 3), np.inf), "'a' is not finite: 6 of 6 entries"),
        (np.full((2, 3), 1e300), "'a' is not finite: 6 of 6 entries"),
        (np.full((2, 3), np.nan, ml_dtypes.bfloat16), "'a' is not finite"),
        (np.full((2, 3), "1"), "'a' has dtype <U1, which is no number"),
        (np.full((2, 3), None), "'a' has dtype object, which is no number"),
        (np.zeros((2, 3), "V4"), r"'a' has dtype \|V4, which is no number"),
        (np.ones((2, 3), "M8[s]"), "'a' has dtype datetime64.*, which is no number"),
        (np.ones((2, 3), np.complex64), "dtype complex64, which the model's float32 cannot hold"),
    ],
)
def test_what_no_average_can_hold_is_refused(array, reason):
    message = screen(sent(a=array), LIKE)
    assert message is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(message)


def test_one_entry_that_is_not_finite_is_counted():
    array = np.ones((2, 3))
    array[1, 2] = np.nan
    assert screen(sent(a=array), LIKE) == "leaf 'a' is not finite: 1 of 6 entries"


def test_missing_and_unknown_leaves_are_named():
    assert screen({"a": LIKE["a"]}, LIKE) == "leaf 'b/c' is missing"
    assert screen({**LIKE, "d": np.ones(1)}, LIKE) == "leaf 'd' is unknown to the model"


def test_floats_are_refused_where_the_model_counts():
    like = {"steps": np.zeros((), np.int32)}
    assert screen({"steps": np.int64(3)}, like) is None
    assert "cannot hold" in str(screen({"steps": np.float32(3)}, like))


def test_arrays_without_entries_pass():
    empty = {"a": np.zeros((0, 3), np.float32)}
    assert screen(empty, empty) is None
