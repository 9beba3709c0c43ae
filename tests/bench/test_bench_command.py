"""The command from end to end, on the smallest cases."""

import json

import jax
import pytest

from jaxfuse.cli import main
from jaxfuse.cli.compilation_cache import use_compilation_cache

ARGUMENTS = ("--suite", "kernels", "--quick", "--only", "*hungarian/n=32")


@pytest.fixture
def command(capsys, monkeypatch):
    monkeypatch.setattr("jaxfuse.cli.bench.measure_ceilings", lambda quick: {"flops": 1e9})

    def call(*arguments):
        capsys.readouterr()
        status = 0
        try:
            main(["bench", *map(str, arguments)])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return (status, *capsys.readouterr())

    return call


def test_a_run_its_files_and_the_next_run(command, tmp_path):
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "markdown", "html")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    cached = jax.config.values["jax_enable_compilation_cache"]
    status, out, _ = command(*ARGUMENTS, *options)
    assert status == 0
    assert "of optimum 1.0000" in out
    content = json.loads(files["json"].read_text())
    assert [row["contestant"] for row in content["rows"]][:2] == ["jaxfuse", "SciPy"]
    assert all(row["quality"] or row["note"] for row in content["rows"])
    assert content["done"] == [["kernels", "hungarian/n=32"]]
    assert "SciPy" in files["markdown"].read_text()
    assert "<svg" in files["html"].read_text()
    assert jax.config.values["jax_enable_compilation_cache"] == cached

    # What the file holds is not measured again, unless it is asked for.
    content["rows"][1]["note"] = "an old row"
    files["json"].write_text(json.dumps(content))
    _, out, _ = command(*ARGUMENTS, *options)
    assert "an old row" in out
    _, out, _ = command(*ARGUMENTS, *options, "--fresh")
    assert "an old row" not in out


def test_results_of_other_sizes_are_not_mixed(command, tmp_path):
    file = tmp_path / "out.json"
    command(*ARGUMENTS, "--json", file)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"quick": False}))
    status, _, error = command(*ARGUMENTS, "--json", file)
    assert status == 1
    assert "--fresh" in error
    file.write_text("{}")
    status, _, error = command(*ARGUMENTS, "--json", file)
    assert status == 1
    assert "no results" in error


def test_a_check_passes_fails_and_is_updated(command, tmp_path, monkeypatch):
    stored = tmp_path / "stored.json"
    check = ("--suite", "check", "--only", "hungarian/n=256", "--stored", stored)
    status, _, error = command(*check)
    assert status == 1
    assert "--update" in error
    assert command(*check, "--update")[0] == 0
    status, out, _ = command(*check, "--margin", 1e6)
    assert status == 0
    assert "As good as" in out

    content = json.loads(stored.read_text())
    content["rows"]["hungarian/n=256 | SciPy"]["ratio"] = 1e-9
    stored.write_text(json.dumps(content))
    status, out, _ = command(*check, "--margin", 1e6)
    assert status == 1
    assert "hungarian/n=256 | SciPy" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "zebra"), "no case of suite 'kernels' matches 'zebra'"),
        (("--device", "tpu", "--quick", "--only", "*hungarian/n=32"), "there is no tpu here"),
        (("--update",), "--update is for --suite check"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(command, arguments, words):
    status, _, error = command(*arguments)
    assert status == 1
    assert words in error
    assert error.count("\n") == 1


def test_an_unknown_suite_is_refused(command):
    status, out, error = command("--suite", "zebra")
    assert status == 2
    assert "zebra" in out + error


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAXFUSE_NO_CACHE", raising=False)
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "jaxfuse" / "xla"
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_users_cache(cache):
    assert use_compilation_cache() == cache
    assert jax.config.values["jax_compilation_cache_dir"] == str(cache)
    # Once chosen, it stays.
    assert use_compilation_cache() is None


def test_the_cache_can_be_refused(cache, monkeypatch):
    monkeypatch.setenv("JAXFUSE_NO_CACHE", "1")
    assert use_compilation_cache() is None
    assert jax.config.values["jax_compilation_cache_dir"] is None
