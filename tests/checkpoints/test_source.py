"""Tensors read one at a time, whole or in parts, from every kind of checkpoint."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.checkpoints import write
from jaxfuse.checkpoints.source import INDEX, SafetensorsSource, open_source, size_of
from tests.checkpoints.sharded import write_sharded

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_]


@pytest.fixture(scope="module")
def arrays() -> dict:
    generator = np.random.default_rng(0)
    arrays = {
        f"leaf{index}": (100 * generator.normal(size=(5, 4, 3))).astype(dtype)
        for index, dtype in enumerate(DTYPES)
    }
    return {**arrays, "scalar": np.array(2.5, np.float32), "row": np.arange(7, dtype=np.int32)}


@pytest.fixture(scope="module", params=["file", "sharded", "orbax"])
def source(request, arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "file":
        write(folder / "net.safetensors", arrays)
        return open_source(folder / "net.safetensors")
    if request.param == "sharded":
        write_sharded(folder / "net", arrays, 3)
        return open_source(folder / "net")
    write(folder / "net", {"a": {"b": arrays}, "c": [arrays["row"]]})
    return open_source(folder / "net")


def named(source, name: str) -> str:
    return name if isinstance(source, SafetensorsSource) else f"a/b/{name}"


def test_names_shapes_and_dtypes(source, arrays):
    extra = set() if isinstance(source, SafetensorsSource) else {"c/0"}
    assert set(source.leaves) == {named(source, name) for name in arrays} | extra
    for name, array in arrays.items():
        leaf = source.leaves[named(source, name)]
        assert (leaf.shape, np.dtype(leaf.dtype)) == (array.shape, array.dtype)
        assert size_of(leaf) == array.nbytes
    assert all(file.is_file() for file in source.files)


def test_whole_tensors(source, arrays):
    for name, array in arrays.items():
        got = source.read(named(source, name))
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_parts(source, arrays, data):
    """Any entries of any axes are those that NumPy takes."""
    name = data.draw(st.sampled_from(["leaf0", "leaf3", "row"]))
    where = {}
    for axis, size in enumerate(arrays[name].shape):
        if data.draw(st.booleans()):
            entries = st.lists(st.integers(0, size - 1), min_size=1, max_size=size)
            where[axis] = np.array(data.draw(entries))
    wanted = arrays[name]
    for axis, entries in where.items():
        wanted = np.take(wanted, entries, axis=axis)
    np.testing.assert_array_equal(source.read(named(source, name), where), wanted)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        open_source(tmp_path / "net.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is no readable orbax checkpoint"):
        open_source(tmp_path / "empty")


def test_damaged_files(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="is no readable safetensors file"):
        open_source(path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[", "is no index"),
        ("{}", "is no index"),
        ('{"weight_map": {"w": 3}}', "is no index"),
        ('{"weight_map": {"w": "missing.safetensors"}}', "names missing.safetensors, which is no"),
        ('{"weight_map": {"w": "../other.safetensors"}}', "names other.safetensors, which is no"),
        ('{"weight_map": {"v": "some.safetensors"}}', "tensor 'v' is not in some.safetensors"),
    ],
)
def test_damaged_index(tmp_path, index, message):
    folder = tmp_path / "net"
    folder.mkdir()
    for path in (folder / "some.safetensors", tmp_path / "other.safetensors"):
        safetensors.numpy.save_file({"w": np.ones(3)}, path)
    (folder / INDEX).write_text(index)
    with pytest.raises(ValueError, match=message):
        open_source(folder)


def test_dtype_that_numpy_lacks(tmp_path):
    text = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "net.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0")
    with pytest.raises(ValueError, match=r"tensor 'w' of .* has dtype F8_E4M3"):
        open_source(path)
