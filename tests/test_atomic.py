"""Files appear whole or not at all."""

import os
import stat

import pytest

from jaxfuse.atomic import replacing, write_text


def test_file_takes_its_place_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "results.bin"
    with replacing(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert os.listdir(path.parent) == ["results.bin"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_mode_is_that_of_a_new_file_or_of_the_one_replaced(tmp_path, umask):
    path = tmp_path / "results.json"
    before = os.umask(umask)
    try:
        write_text(path, "{}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        path.chmod(0o640)
        write_text(path, "[]")
    finally:
        os.umask(before)
    assert path.read_text() == "[]"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_failure_leaves_what_was_there(tmp_path, error, before):
    path = tmp_path / "results.bin"
    if before is not None:
        path.write_bytes(before)

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([before] if before else [])


def test_folder_in_the_way_is_left_alone(tmp_path):
    path = tmp_path / "results.json"
    path.mkdir()
    with pytest.raises(OSError, match=r"results\.json"):
        write_text(path, "{}")
    assert os.listdir(tmp_path) == ["results.json"]
    assert path.is_dir()


def test_text_replaces_text_as_utf8(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("a longer text that was there before")
    write_text(os.fspath(path), "größe ≤ 1\n")
    assert path.read_bytes() == "größe ≤ 1\n".encode()
