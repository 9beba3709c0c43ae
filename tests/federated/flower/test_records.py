"""Parameters go into Flower's records and come back as they were."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, RecordDict

from jaxfuse.federated.flower import from_record, named_arrays, recall, remember, to_record


@pytest.mark.parametrize(
    "dtype",
    [
        np.float32,
        np.float64,
        np.float16,
        np.int32,
        np.bool_,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.int4,
    ],
)
def test_every_dtype_comes_back_bit_by_bit(dtype):
    params = {"dense": {"0": {"kernel": np.arange(6).reshape(2, 3).astype(dtype)}}}
    back = from_record(to_record(params))
    kernel = back["dense"]["0"]["kernel"]
    assert kernel.dtype == dtype
    assert kernel.tobytes() == params["dense"]["0"]["kernel"].tobytes()


def test_jax_arrays_and_scalars_are_written():
    back = from_record(to_record({"w": jnp.ones((2, 2), jnp.bfloat16), "steps": jnp.int32(3)}))
    assert back["w"].dtype == ml_dtypes.bfloat16
    assert back["steps"].shape == ()
    assert back["steps"] == 3


def test_a_record_of_plain_numpy_is_read():
    record = ArrayRecord({"a/b": Array(np.ones(2))})
    np.testing.assert_array_equal(from_record(record)["a"]["b"], [1.0, 1.0])


def test_bfloat16_that_numpy_wrote_itself_is_read():
    # What a client gets who does not know: np.save writes the bits as void.
    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    read = named_arrays(ArrayRecord({"w": Array(values)}))["w"]
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("stype", "data"),
    [("torch.tensor", b""), ("numpy.ndarray", b"no file"), ("numpy.ndarray", b"")],
)
def test_what_cannot_be_read_is_refused_with_its_name(stype, data):
    record = ArrayRecord({"w": Array(dtype="float32", shape=(2,), stype=stype, data=data)})
    with pytest.raises(ValueError, match="leaf 'w' cannot be read"):
        named_arrays(record)


def test_a_name_that_is_the_beginning_of_another_is_refused():
    record = ArrayRecord({"a": Array(np.ones(1)), "a/b": Array(np.ones(1))})
    with pytest.raises(ValueError, match="'a' is an array and holds 'a/b'"):
        from_record(record)


def test_clients_remember_what_is_finite():
    context = Context(1, 2, {}, RecordDict(), {})
    remember(context, "control", {"w": np.ones(2)})
    remember(context, "control", {"w": np.array([1.0, np.nan])})
    np.testing.assert_array_equal(recall(context, "control")["w"], [1.0, 1.0])
