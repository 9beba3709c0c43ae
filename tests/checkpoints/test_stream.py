"""Checkpoints written piece by piece: readable by safetensors, whole or not at all."""

import os

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from jaxfuse.checkpoints import read, write
from jaxfuse.checkpoints.source import DTYPES, INDEX, open_source
from jaxfuse.checkpoints.stream import check_stream_output, write_stream
from tests.checkpoints.sharded import write_sharded


def arrays(seed: int = 0) -> dict:
    generator = np.random.default_rng(seed)
    arrays = {
        f"leaf.{index}": (10 * generator.normal(size=(3, 5))).astype(dtype)
        for index, dtype in enumerate(DTYPES.values())
        if dtype.kind != "c"
    }
    return {**arrays, "scalar": np.array(2.5, np.float16), "empty": np.zeros((0, 3), np.float32)}


def halves(values: dict):
    """Give every array in two pieces."""

    def pieces(name: str):
        array = values[name]
        if array.ndim:
            yield array[:1]
            yield array[1:]
        else:
            yield array

    return pieces


@pytest.fixture
def folder(tmp_path):
    safetensors.numpy.save_file(arrays(), tmp_path / "net.safetensors", metadata={"format": "pt"})
    write_sharded(tmp_path / "parts", arrays(), 3)
    write(tmp_path / "orbax", {"a": [np.ones((2, 3), np.float32)]})
    return tmp_path


@pytest.mark.parametrize("source", ["net.safetensors", "parts"])
def test_one_file(folder, source):
    new = arrays(seed=1)
    out = folder / "deep" / "out.safetensors"
    write_stream(out, open_source(folder / source), halves(new), force=False)
    got = safetensors.numpy.load_file(out)
    assert set(got) == set(new)
    for name, array in new.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)
    with safe_open(out, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert os.listdir(out.parent) == ["out.safetensors"]


def test_folder_of_files(folder):
    new = arrays(seed=1)
    write_stream(folder / "out", open_source(folder / "parts"), halves(new), force=False)
    assert sorted(os.listdir(folder / "out")) == sorted(os.listdir(folder / "parts"))
    assert (folder / "out" / INDEX).read_text() == (folder / "parts" / INDEX).read_text()
    source = open_source(folder / "out")
    for name, array in new.items():
        np.testing.assert_array_equal(source.read(name), array)
    for file in source.files:
        with safe_open(file, framework="numpy") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_orbax_becomes_a_file(folder):
    new = {"a/0": np.full((2, 3), 7, np.float32)}
    out = folder / "out.safetensors"
    write_stream(out, open_source(folder / "orbax"), halves(new), force=False)
    np.testing.assert_array_equal(read(out)["a/0"], new["a/0"])


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_failure_leaves_what_was_there(folder, name):
    source = open_source(folder / "parts")
    write_stream(folder / name, source, halves(arrays(seed=1)), force=False)
    before = sorted(os.listdir(folder))

    def broken(leaf: str):
        yield arrays(seed=2)[leaf]
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_stream(folder / name, source, broken, force=True)
    assert sorted(os.listdir(folder)) == before
    got = open_source(folder / name)
    np.testing.assert_array_equal(got.read("leaf.0"), arrays(seed=1)["leaf.0"])


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_replaces_only_with_force(folder, name):
    source = open_source(folder / "parts")
    write_stream(folder / name, source, halves(arrays(seed=1)), force=False)
    with pytest.raises(FileExistsError, match="exists: choose another output, or pass --force"):
        write_stream(folder / name, source, halves(arrays(seed=2)), force=False)
    write_stream(folder / name, source, halves(arrays(seed=2)), force=True)
    got = open_source(folder / name)
    np.testing.assert_array_equal(got.read("leaf.0"), arrays(seed=2)["leaf.0"])


def test_refusals(folder):
    single, parts = open_source(folder / "net.safetensors"), open_source(folder / "parts")
    for source, name in ((single, "out"), (open_source(folder / "orbax"), "out"), (parts, "out.x")):
        with pytest.raises(ValueError, match=r"can't write .*: end it in .safetensors"):
            check_stream_output(folder / name, source, force=False)
    (folder / "other").mkdir()
    (folder / "other.safetensors").mkdir()
    for name in ("other", "other.safetensors"):
        with pytest.raises(FileExistsError, match="is no such checkpoint, so --force does not"):
            check_stream_output(folder / name, parts, force=True)


def test_dtype_that_safetensors_lacks(tmp_path):
    write(tmp_path / "orbax", {"w": np.ones(3, np.complex128)})
    source = open_source(tmp_path / "orbax")
    with pytest.raises(ValueError, match="leaf 'w' has dtype complex128"):
        write_stream(tmp_path / "out.safetensors", source, halves({}), force=False)
    assert os.listdir(tmp_path) == ["orbax"]
