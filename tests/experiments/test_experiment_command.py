"""`jaxfuse experiment compact-ensemble` on a tiny table, and its refusals."""

import json

import pytest

from jaxfuse.experiments import EXPERIMENTS
from jaxfuse.experiments.recipes import fuse_parents
from tests.cli.command import Command
from tests.experiments.fakes import small

COMMAND = ("experiment", "compact-ensemble")


@pytest.fixture
def call(capsys, monkeypatch) -> Command:
    monkeypatch.setenv("COLUMNS", "150")
    tables = {**EXPERIMENTS["compact-ensemble"], "time": lambda _: small("time")}
    monkeypatch.setattr(
        "jaxfuse.cli.experiment.EXPERIMENTS", {**EXPERIMENTS, "compact-ensemble": tables}
    )
    return Command(capsys)


def test_a_run_its_files_and_the_next_run(call, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table time -->\n<!-- end time -->\n")
    words = (*COMMAND, "--table", "time", "-o", tmp_path / "out", "--cache", tmp_path / "cache")
    outcome = call(*words, "--readme", readme)
    assert (outcome.status, outcome.err) == (0, "")
    written = tmp_path / "out"
    assert sorted(path.name for path in written.iterdir()) == [
        "results.json",
        "table.md",
        "time.png",
    ]
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2
    assert "### Time against accuracy" in readme.read_text()
    assert "(time/time.png)" in readme.read_text()
    for name in ("results.json", "table.md", "time.png"):
        assert f"Wrote {written}/{name}" in outcome.out
    before = (written / "results.json").read_text()
    assert call(*words).status == 0
    assert (written / "results.json").read_text() == before
    assert call(*words, "--seeds", "0", "1").status == 0
    cells = json.loads((written / "results.json").read_text())["cells"]
    assert [cell["seed"] for cell in cells] == [0] * (len(cells) // 2) + [1] * (len(cells) // 2)


def test_an_interrupted_run_leaves_a_table(call, tmp_path, monkeypatch):
    measured = []

    def stop(*arguments, **options):
        if measured:
            raise KeyboardInterrupt
        measured.append(arguments)
        return fuse_parents(*arguments, **options)

    monkeypatch.setattr("jaxfuse.experiments.widths.fuse_parents", stop)
    words = ("--table", "widths", "-o", tmp_path, "--cache", tmp_path / "cache")
    outcome = call(*COMMAND, *words)
    assert outcome.status == 130
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert [cell["method"] for cell in cells] == ["parents", "ot_weights"]
    assert f"{100 * cells[1]['values']['average']:.2f}" in (tmp_path / "table.md").read_text()
    assert "Not run." in (tmp_path / "table.md").read_text()


def test_results_of_another_table_are_refused(call, tmp_path):
    words = ("--table", "time", "--cache", tmp_path / "cache", "-o", tmp_path)
    (tmp_path / "results.json").write_text("{}")
    assert "holds no results of an experiment" in call(*COMMAND, *words).one_line()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("seeds", [("0", "0"), ("-1",)])
def test_bad_seeds_are_one_line(call, tmp_path, seeds):
    outcome = call(*COMMAND, "--table", "time", "-o", tmp_path / "out", "--seeds", *seeds)
    assert "--seeds are different numbers from 0 on" in outcome.one_line()


def test_missing_data_are_one_line_naming_the_folder(call, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxfuse.cli.experiment.EXPERIMENTS", EXPERIMENTS)
    words = ("--scale", "cpu", "--data-dir", tmp_path / "none", "--cache", tmp_path / "cache")
    outcome = call(*COMMAND, "--table", "mnist", *words, "-o", tmp_path / "out")
    assert str(tmp_path / "none") in outcome.one_line().replace("\n", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        ((*COMMAND, "--help"), 0, ["--table", "similarity", "--scale", "--seeds", "--cache"]),
        ((*COMMAND, "--table", "mnists"), 2, ["mnists", "het4"]),
        (COMMAND, 2, ["--table"]),
        (("experiment", "fedrated", "--table", "mnist"), 2, ["fedrated", "compact-ensemble"]),
        ((*COMMAND, "--table", "mnist", "--scale", "big"), 2, ["big", "full"]),
    ],
)
def test_help_and_unknown_words(call, words, status, expected):
    outcome = call(*words)
    assert outcome.status == status
    printed = outcome.err if status else outcome.out
    assert all(word in printed for word in expected)


def test_a_table_of_another_experiment_is_refused(call, tmp_path):
    outcome = call("experiment", "federated", "--table", "time", "-o", tmp_path / "out")
    assert outcome.one_line() == "jaxfuse: federated has the tables clients, apart"
