"""Round trips, damage, refusals, and what a failure leaves behind."""

import itertools
import os
import shutil
import stat

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.flax
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.checkpoints import read, write
from jaxfuse.symmetry.tree import named_leaves

DTYPES = ["float32", "bfloat16", "float16", "float64", "int64", "int32", "uint8", "bool"]


@pytest.fixture
def tree() -> dict:
    generator = np.random.default_rng(0)
    return {
        "dense": [
            {"kernel": generator.normal(size=(3, 4)).astype(np.float32)},
            {"kernel": jnp.linspace(-1, 1, 8, dtype=jnp.bfloat16).reshape(4, 2)},
        ],
        "norm": {"scale": np.linspace(0, 1, 4).astype(np.float16)},
        "steps": np.array(2**40),
        "seen": np.arange(5, dtype=np.int32),
        "flags": jnp.array([1, 0, 255], jnp.uint8),
    }


def assert_same(got, wanted) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for leaf, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert isinstance(leaf, np.ndarray)
        assert (leaf.dtype, leaf.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(leaf, np.asarray(other))


def test_safetensors_round_trip_has_one_name_per_leaf(tree, tmp_path):
    path = tmp_path / "new" / "net.safetensors"
    write(path, tree)
    assert_same(read(path), dict(sorted(named_leaves(tree).items())))
    assert os.listdir(path.parent) == ["net.safetensors"]
    other = safetensors.flax.load_file(path)
    assert other["dense/1/kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(other["dense/1/kernel"], tree["dense"][1]["kernel"])


def test_orbax_round_trip_keeps_dicts_and_lists(tree, tmp_path):
    write(tmp_path / "net", tree)
    assert_same(read(tmp_path / "net"), tree)
    assert os.listdir(tmp_path) == ["net"]


def test_relative_path_and_names_with_slashes_and_dots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flat = {"dense/0/kernel": np.ones((2, 3), np.float32), "fc.weight": np.zeros(3, np.float32)}
    for path in ("net", "net.safetensors"):
        write(path, flat)
        assert_same(read(path), flat)


def test_reads_what_other_programs_wrote(tmp_path):
    wanted = {"fc.weight": jnp.arange(6.0).reshape(2, 3)}
    safetensors.flax.save_file(dict(wanted), tmp_path / "theirs.safetensors")
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "theirs", wanted)
    assert_same(read(tmp_path / "theirs.safetensors"), wanted)
    assert_same(read(tmp_path / "theirs"), wanted)


@settings(deadline=None, max_examples=20)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 4), max_size=3),
    fortran=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_array_survives_safetensors(tmp_path_factory, dtype, shape, fortran, seed):
    values = np.random.default_rng(seed).normal(size=shape) * 100
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    values = np.asarray(np.abs(values).astype(dtype), order="F" if fortran else "C")
    path = tmp_path_factory.mktemp("any") / "net.safetensors"
    write(path, {"x": values, "strided": values[::2] if values.ndim else values})
    assert_same(read(path), {"strided": values[::2] if values.ndim else values, "x": values})


def test_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nothing\.safetensors"):
        read(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("content", [b"", b"123", b"no checkpoint at all, but a longer text", None])
def test_damaged_safetensors_file_is_refused(tree, tmp_path, content):
    path = tmp_path / "net.safetensors"
    write(path, tree)
    path.write_bytes(path.read_bytes()[:-3] if content is None else content)
    with pytest.raises(
        ValueError, match=r"net\.safetensors is no readable safetensors file"
    ) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["_METADATA", "manifest.ocdbt", "d", "data", "everything"])
def test_damaged_orbax_folder_is_refused(tmp_path, damage):
    # One leaf only: orbax leaves the reads of the others hanging, and their threads complain.
    path = tmp_path / "net"
    write(path, {"x": np.random.default_rng(0).normal(size=(200, 200))})
    if damage == "data":
        largest = max(path.rglob("*"), key=lambda each: each.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-1000])
    elif damage in ("d", "everything"):
        shutil.rmtree(path / "d" if damage == "d" else path)
        path.mkdir(exist_ok=True)
    else:
        (path / damage).write_bytes((path / damage).read_bytes()[:40])
    with pytest.raises(ValueError, match="net is no readable orbax checkpoint") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "attribute" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.pt", "net.v2", "net.safetensors.gz"])
def test_other_suffix_is_refused_before_anything_is_written(tree, tmp_path, name):
    with pytest.raises(ValueError, match=r"can't write .*end it in \.safetensors"):
        write(tmp_path / "folder" / name, tree, force=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_mode_is_that_of_a_new_file_or_of_the_one_replaced(tree, tmp_path, umask):
    path = tmp_path / "net.safetensors"
    before = os.umask(umask)
    try:
        write(path, tree)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        path.chmod(0o640)
        write(path, tree, force=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["net", "net.safetensors", "old", "new"])
def test_existing_checkpoint_is_replaced_with_force_only(tree, tmp_path, name):
    path = tmp_path / name
    before = {"x": np.ones(3)}
    write(path, before)
    with pytest.raises(FileExistsError, match="pass --force"):
        write(path, tree)
    assert_same(read(path), before)
    write(path, tree, force=True)
    wanted = dict(sorted(named_leaves(tree).items())) if path.suffix else tree
    assert_same(read(path), wanted)
    assert os.listdir(tmp_path) == [name]


def test_folder_of_another_orbax_program_is_replaced(tree, tmp_path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "theirs", {"x": np.ones(3)})
    write(tmp_path / "theirs", tree, force=True)
    assert_same(read(tmp_path / "theirs"), tree)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("results", "file"),  # any file that ends in .safetensors may be replaced
        *itertools.product(("results", "results.safetensors"), ("folder", "empty", "other format")),
    ],
)
def test_what_is_no_checkpoint_is_never_replaced(tree, tmp_path, monkeypatch, name, kind):
    path = tmp_path / name
    kept = path / "keep.txt"
    if kind == "file":
        kept = path
        path.write_text("kept")
    elif kind == "empty":
        path.mkdir()
    elif kind == "folder":
        path.mkdir()
        kept.write_text("kept")
    elif path.suffix:
        write(tmp_path / "net", {"x": np.ones(3)})
        os.rename(tmp_path / "net", path)
    else:
        write(tmp_path / "net.safetensors", {"x": np.ones(3)})
        os.rename(tmp_path / "net.safetensors", path)

    def work(*arguments):
        raise AssertionError("work was done")

    monkeypatch.setattr(safetensors.numpy, "save_file", work)
    monkeypatch.setattr(ocp.StandardCheckpointer, "save", work)
    with pytest.raises(FileExistsError, match=r"results.* exists and is no .*--force does not"):
        write(path, tree, force=True)
    assert os.listdir(tmp_path) == [name]
    if kind in ("folder", "file"):
        assert kept.read_text() == "kept"


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("name", ["net", "net.safetensors"])
def test_what_came_meanwhile_is_not_replaced(tree, tmp_path, monkeypatch, name, force):
    path = tmp_path / name
    save, save_file = ocp.StandardCheckpointer.save, safetensors.numpy.save_file

    def slow_save(*arguments):
        save(*arguments)
        path.mkdir()

    def slow_save_file(*arguments):
        save_file(*arguments)
        path.mkdir() if force else path.write_text("kept")

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", slow_save)
    monkeypatch.setattr(safetensors.numpy, "save_file", slow_save_file)
    with pytest.raises(FileExistsError, match="exists"):
        write(path, tree, force=force)
    assert os.listdir(tmp_path) == [name]
    assert path.is_dir() or path.read_text() == "kept"


def test_link_to_nothing_is_taken(tree, tmp_path):
    path = tmp_path / "net.safetensors"
    path.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(FileExistsError, match="pass --force"):
        write(path, tree)
    assert path.is_symlink()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_crash_in_mid_write_leaves_the_old_file(tree, tmp_path, monkeypatch, error):
    path = tmp_path / "net.safetensors"
    write(path, {"x": np.ones(3)})

    def half(arrays, target):
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    with pytest.raises(type(error)):
        write(path, tree, force=True)
    assert os.listdir(tmp_path) == ["net.safetensors"]
    np.testing.assert_array_equal(read(path)["x"], np.ones(3))


@pytest.mark.parametrize("at", ["save", "move"])
def test_crash_in_mid_write_leaves_the_old_folder(tree, tmp_path, monkeypatch, at):
    path = tmp_path / "net"
    write(path, {"x": np.ones(3)})
    replace = os.replace

    def refuse(source, target):
        if target == path and not str(source).endswith("old"):
            raise OSError("disk full")
        replace(source, target)

    def half(self, target, params):
        target.mkdir()
        (target / "d").write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        if at == "move":
            patch.setattr(os, "replace", refuse)
        else:
            patch.setattr(ocp.StandardCheckpointer, "save", half)
        with pytest.raises(OSError, match="disk full"):
            write(path, tree, force=True)
    assert os.listdir(tmp_path) == ["net"]
    np.testing.assert_array_equal(read(path)["x"], np.ones(3))
