"""A run keeps every cell that is done, whatever ends it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxfuse.experiments import Nursery, resume, run
from tests.experiments.fakes import Counted

ALL = ["a0", "b0", "c0", "a1", "b1", "c1"]


@pytest.fixture
def place(tmp_path):
    return tmp_path / "results.json", tmp_path / "journal"


def go(table, path, tell=None, **options):
    results = resume("fake", "ci", table, path, **options)
    return run(table, results, path, Nursery(path.parent), tell)


def test_what_is_done_is_not_measured_again(place):
    path, journal = place
    told = []

    def stop_at_the_fourth(name, done, total):
        told.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(Counted(str(journal)), path, stop_at_the_fourth)
    assert journal.read_text().split() == ALL[:3]
    assert len(json.loads(path.read_text())["cells"]) == 3
    results = go(Counted(str(journal)), path, lambda name, done, total: told.append((done, total)))
    assert journal.read_text().split() == ALL
    assert told == [(0, 6), (1, 6), (2, 6), (3, 6), (3, 6), (4, 6), (5, 6), (6, 6)]
    values = {cell.method + str(cell.seed): each["value"] for cell, each in results.cells.items()}
    assert values == {name: 10 * int(name[1]) + ord(name[0]) for name in ALL}


def test_a_killed_process_loses_the_cell_in_hand(place):
    path, journal = place
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.experiments.fakes import Counted\n"
        "from tests.experiments.test_cells import go\n"
        "go(Counted(sys.argv[2], killed_at='b1'), Path(sys.argv[1]))"
    )
    path_variable = os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
    done = subprocess.run(
        [sys.executable, "-c", script, path, journal],
        env=os.environ | {"PYTHONPATH": path_variable},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9
    assert journal.read_text().split() == ALL[:4]
    held = json.loads(path.read_text())
    assert len(held["cells"]) == 4
    assert sorted(os.listdir(path.parent)) == ["journal", "results.json"]
    # Whether it would be killed is part of the configuration.
    held["config"]["killed_at"] = ""
    path.write_text(json.dumps(held))
    go(Counted(str(journal)), path)
    assert journal.read_text().split() == ALL


def test_more_seeds_go_on_with_the_same_results(place):
    path, journal = place
    go(Counted(str(journal), seeds=(1,)), path)
    go(Counted(str(journal), seeds=(0, 1)), path)
    assert journal.read_text().split() == ["a1", "b1", "c1", "a0", "b0", "c0"]


def test_results_of_another_configuration_are_refused_and_fresh_begins_anew(place):
    path, journal = place
    go(Counted(str(journal)), path)
    with pytest.raises(ValueError, match="--fresh"):
        go(Counted(str(journal), factor=11), path)
    results = go(Counted(str(journal), factor=11), path, fresh=True)
    assert {each["value"] for each in results.cells.values()} == {97, 98, 99, 108, 109, 110}


@pytest.mark.parametrize("content", ["", "[]", '{"cells": 3}', '{"cells": [], "odd": 1}'])
def test_a_file_that_holds_no_results_is_refused(place, content):
    path, journal = place
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no results of an experiment"):
        go(Counted(str(journal)), path)
