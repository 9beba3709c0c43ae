"""`jaxfuse demo` on the digits, and its refusals."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxfuse.affinity import Linear
from jaxfuse.align import AFFINITIES
from jaxfuse.cli import demo
from jaxfuse.methods import METHODS
from jaxfuse.training import TrainingConfig
from tests.cli.command import Command, assert_table_shows, shorten_resnet20

ROWS = [
    "parent 0",
    "parent 1",
    "prediction ensemble",
    "plain average",
    "aligned average, linear",
    "aligned average, gaussian",
]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(capsys, monkeypatch) -> Command:
    monkeypatch.setenv("COLUMNS", "150")
    return Command(capsys)


# The two MLPs share their compiled programs.
@pytest.mark.parametrize(
    ("model", "width", "norm", "split"),
    [
        ("mlp", 0.05, None, "homogeneous"),
        ("mlp", 0.05, None, "personalised"),
        ("mlp", 0.04, "group", "dirichlet"),
        ("resnet20", 0.25, None, "homogeneous"),
    ],
)
def test_demo_prints_what_it_writes(run, tmp_path, monkeypatch, model, width, norm, split):
    if (model, norm) != ("mlp", None):  # the settings of the MLP would compile for half a minute
        monkeypatch.setitem(AFFINITIES, "gaussian", Linear())
        monkeypatch.setitem(METHODS, "portfolio", METHODS["coordinate_ascent"])
    shorten_resnet20(monkeypatch)
    out = tmp_path / "out[red]"
    options = {
        "model": model,
        "width": width,
        "norm": norm,
        "split": split,
        "epochs": 1 if model == "resnet20" else 2,
        "seed": 3,
        "out": out,
    }
    given = {name: value for name, value in options.items() if value is not None}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    outcome = run("demo", *words)
    assert (outcome.status, outcome.err) == (0, "")
    assert sorted(os.listdir(out)) == ["barrier.png", "results.json"]
    assert (out / "barrier.png").read_bytes().startswith(PNG)
    results = json.loads((out / "results.json").read_text())
    assert options | {"out": str(out), "dataset": "digits"} == {
        name: value for name, value in results["settings"].items() if name in [*options, "dataset"]
    }
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ROWS
    assert_table_shows(outcome, results["rows"])
    assert f"{model} at width {width} on digits" in outcome.out
    assert f"drawn in {out}/barrier.png" in outcome.out
    assert f"in {out}/results.json" in outcome.out
    paths = {"not aligned": ROWS[3], "aligned, linear": ROWS[4], "aligned, gaussian": ROWS[5]}
    assert [curve["name"] for curve in results["curves"]] == list(paths)
    for curve in results["curves"]:
        ts, losses = np.array(curve["ts"]), np.array(curve["losses"])
        np.testing.assert_allclose(ts, np.linspace(0, 1, 25), atol=1e-6)
        np.testing.assert_allclose(losses[0], rows["parent 0"]["loss"], rtol=1e-5)
        rise = (losses - (1 - ts) * losses[0] - ts * losses[-1]).max()
        np.testing.assert_allclose(curve["barrier"], rise, atol=1e-5)
        assert rows[paths[curve["name"]]]["barrier"] == curve["barrier"]
        # A permutation leaves the second parent as good as it was.
        np.testing.assert_allclose(losses[-1], rows["parent 1"]["loss"], rtol=1e-4)
    if split == "homogeneous":
        assert min(rows["parent 0"]["accuracy"], rows["parent 1"]["accuracy"]) > 0.3


def test_missing_dataset_is_one_line_naming_the_folder(run, tmp_path):
    outcome = run("demo", "--dataset", "mnist", "--data-dir", tmp_path, "-o", tmp_path / "out")
    assert str(tmp_path) in outcome.one_line()
    assert outcome.out.strip() == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", "0"), "epochs must be 1 or more, got 0"),
        (("--width", "0"), "width multiplier must be positive"),
        (("--dataset", "a/../b"), "no dataset name"),
        (("--model", "resnet20", "--bias"), "resnet20 has the biases of its paper"),
        (("--model", "mobilenet_v2", "--norm", "layer"), "has batch normalisation, and no 'layer'"),
        (("--width", "half"), "give mlp a number"),
        (("--test-split", "test[:10]"), "--test-split has no effect on digits"),
        (("--train-split", "test"), "--train-split has no effect on digits"),
        (("--data-dir", "x"), "--data-dir has no effect on digits"),
    ],
)
def test_bad_values_are_one_line(run, tmp_path, words, message):
    outcome = run("demo", "-o", tmp_path / "out", *words)
    assert message in outcome.one_line()
    assert not (tmp_path / "out").exists()


def test_training_that_diverges_is_one_line(run, tmp_path, monkeypatch):
    wild = TrainingConfig(epochs=2, learning_rate=1e30)
    monkeypatch.setattr(demo, "recommended_config", lambda dataset, model: wild)
    outcome = run("demo", "--width", "0.05", "-o", tmp_path / "out")
    assert "training loss became" in outcome.one_line()


def test_interruption_ends_with_the_status_of_a_signal(run, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "load", interrupt)
    outcome = run("demo")
    assert outcome.status == 130
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (("--help",), 0, ["demo", "fuse", "symmetry"]),
        (("demo", "--help"), 0, ["--dataset", "--width", "--split", "--epochs", "-o"]),
        (("fuse", "--help"), 0, ["--weights", "--force", "--evaluate", "--report", "-o"]),
        ((), 2, ["demo"]),
        (("demo", "--model", "perceptron"), 2, ["perceptron", "vgg11"]),
        (("demo", "--split", "fair"), 2, ["fair", "dirichlet"]),
    ],
)
def test_help_and_unknown_words(run, words, status, expected):
    outcome = run(*words)
    assert outcome.status == status
    printed = outcome.err if status else outcome.out
    assert all(word in printed for word in expected)


def test_process_of_its_own_with_warnings_as_errors(tmp_path):
    words = ["demo", "--dataset", "mnist", "--data-dir", tmp_path / "empty"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from jaxfuse.cli import main; main()", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "empty") in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
