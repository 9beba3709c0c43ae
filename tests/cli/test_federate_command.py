"""`jaxfuse federate`: the command of the README, going on, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from jaxfuse.checkpoints import read
from jaxfuse.data import Partition, load_digits
from tests.cli.command import Command

README = (Path(__file__).parents[2] / "README.md").read_text()
SMALL = ("federate", "--clients", "3", "--width", "0.05", "--executor", "vmap")


@pytest.fixture
def call(capsys, monkeypatch) -> Command:
    monkeypatch.setenv("COLUMNS", "150")
    return Command(capsys)


def test_the_command_of_the_readme(call, tmp_path, monkeypatch):
    (line,) = [line for line in README.splitlines() if line.startswith("jaxfuse federate")]
    monkeypatch.chdir(tmp_path)
    outcome = call(*line.split()[1:])
    assert (outcome.status, outcome.err) == (0, "")
    rows = json.loads(Path("jaxfuse-federate/rounds.json").read_text())["rounds"]
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[-1]["accuracy"] > 0.6 > rows[0]["accuracy"]
    assert f"{rows[-1]['accuracy']:.2%}" in outcome.out
    for name in ("rounds.csv", "rounds.png", "split.json", "network.safetensors", "tensorboard"):
        assert Path("jaxfuse-federate", name).exists()


def test_goes_on_from_checkpoints_and_its_own_split(call, tmp_path):
    words = (*SMALL, "--rounds", "3", "-o", tmp_path / "out", "--local", "fedprox")
    assert call(*words, "--strength", "0.1").status == 0
    before = (tmp_path / "out/rounds.csv").read_text()
    shutil.rmtree(tmp_path / "out/tensorboard")
    again = call(*words, "--strength", "0.1")
    assert again.status == 0
    assert (tmp_path / "out/rounds.csv").read_text() == before
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "belong to a run with another config" in call(*words).one_line()
    assert all(path.read_bytes() == held for path, held in kept.items())
    again = (*words, "--fresh", "--split", tmp_path / "out/split.json")
    assert "--clients has no effect" in call(*again).one_line()
    plain = ("federate", *again[3:])
    assert call(*plain, "--apart", "--local", "sgd").status == 0
    split = Partition.load(tmp_path / "out/split.json", load_digits().train_labels)
    assert len(split.clients) == 3
    assert "dense/0/kernel" in read(tmp_path / "out/network.safetensors")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--train-split", "train[:10]"), "has no effect on digits"),
        (("--strength", "1"), "--strength has no effect on sgd"),
        (("--split", "fair"), "fair"),
        (("--learning-rate", "-1"), "learning_rate must be positive"),
    ],
)
def test_refusals_are_one_line(call, tmp_path, words, message):
    assert message in call(*SMALL, "-o", tmp_path / "out", *words).one_line()
