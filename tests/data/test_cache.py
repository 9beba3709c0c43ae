"""The cache of decoded arrays."""

import os

import numpy as np

from jaxfuse.data import cache


def test_written_arrays_come_back(tmp_path):
    path = tmp_path / "new" / "entry.npz"
    arrays = {"images": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": np.arange(2)}
    cache.write(path, arrays)
    again = cache.read(path)
    assert again is not None
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    assert [file.name for file in path.parent.iterdir()] == ["entry.npz"]


def test_absent_entry_is_none(tmp_path):
    assert cache.read(tmp_path / "entry.npz") is None


def test_damaged_entry_is_logged_and_none(tmp_path, caplog):
    path = tmp_path / "entry.npz"
    cache.write(path, {"images": np.arange(1000)})
    path.write_bytes(path.read_bytes()[:500])
    assert cache.read(path) is None
    assert "damaged" in caplog.text
    path.write_bytes(b"")
    assert cache.read(path) is None


def test_unwritable_folder_is_logged_and_ignored(tmp_path, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    cache.write(blocker / "entry.npz", {"images": np.arange(3)})
    assert "cannot cache" in caplog.text
    assert blocker.read_text() == "in the way"


def test_fingerprint_follows_name_size_time_and_words(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1))
    prints = {cache.fingerprint([path], "train")}
    assert prints == {cache.fingerprint([path], "train")}
    prints.add(cache.fingerprint([path], "test"))
    os.utime(path, ns=(2, 2))
    prints.add(cache.fingerprint([path], "train"))
    path.write_bytes(b"abcd")
    os.utime(path, ns=(2, 2))
    prints.add(cache.fingerprint([path], "train"))
    path = path.rename(tmp_path / "renamed")
    prints.add(cache.fingerprint([path], "train"))
    assert len(prints) == 5


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_cache_dir() == tmp_path / "jaxfuse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.default_cache_dir() == tmp_path / ".cache" / "jaxfuse"
