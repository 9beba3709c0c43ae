"""The README keeps its promises: its Python runs, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxfuse
from jaxfuse.checkpoints import write
from jaxfuse.cli import main
from jaxfuse.models import create, functional

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
]


def test_the_python_runs_and_fuses(capsys):
    code = "".join(re.findall(r"```python\n(.*?)```", README, re.S))
    exec(compile(code, "README.md", "exec"), {})
    accuracy, *table = capsys.readouterr().out.strip().splitlines()
    assert float(accuracy) > 0.9
    assert any(line.startswith("dense/0 ") for line in table)


def test_every_command_is_known():
    known = {"make", "jaxfuse"}
    assert {command.split()[0] for command in COMMANDS} == known


@pytest.mark.parametrize("target", [c.split()[1] for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(target):
    plan = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert plan.stdout


@pytest.mark.parametrize("name", ["fuse", "align"])
def test_the_commands_on_checkpoints_run(name, tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    (command,) = [c for c in COMMANDS if c.startswith(f"jaxfuse {name}")]
    words = command.split()[1:]
    for index, name in enumerate(words[1:3]):
        module = create("mlp", input_shape=(8, 8, 1), classes=10, width=0.02, key=key)
        write(name, functional(module)[1])
        assert Path(name).exists(), index
    main(words)
    assert Path(words[words.index("-o") + 1]).exists()


def test_the_symmetry_command_runs(capsys):
    (command,) = [c for c in COMMANDS if c.startswith("jaxfuse symmetry")]
    main(command.split()[1:])
    assert "nothing is missed" in capsys.readouterr().out


def test_the_module_tells_its_version():
    shown = subprocess.run(
        [sys.executable, "-c", "import jaxfuse; print(jaxfuse.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == jaxfuse.__version__
