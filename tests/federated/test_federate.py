"""Whole runs: history, resuming to the last bit, errors."""

import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.federated import RoundConfig, federate
from jaxfuse.federated.logs import RunLogs
from jaxfuse.models import functional
from tests.federated import toy

CONFIG = RoundConfig(epochs=1, batch_size=4, participation=0.67)


def run(rounds=3, config=CONFIG, seed=5, **options):
    test = toy.dataset().test()
    return federate(
        toy.module(),
        toy.clients(),
        test,
        config,
        rounds=rounds,
        key=jax.random.key(seed),
        **options,
    )


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    without = [[row._replace(seconds=0) for row in each.history] for each in (first, second)]
    np.testing.assert_array_equal(without[0], without[1])


def test_history_and_progress():
    told = []
    result = run(evaluate_every=2, executor="vmap", progress=told.append)
    assert [row.round for row in result.history] == [1, 2, 3]
    assert [np.isnan(row.accuracy) for row in result.history] == [True, False, False]
    assert all(row.clients == 2 and row.left_out == 0 for row in result.history)
    np.testing.assert_allclose(told, result.history, rtol=1e-6)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [({("vmap", 1): 1.0}, ("vmap", 1)), ({("map", 1): 1.0}, ("map", 1))],
    ids=["vmap", "map"],
)
def test_auto_takes_the_fastest_executor(monkeypatch, seconds, chosen):
    monkeypatch.setattr(
        "jaxfuse.federated.choose._time",
        lambda plan, data, state: seconds.get((plan.executor, plan.chunk), 9.0),
    )
    plan = run(rounds=1).plan
    assert (plan.executor, plan.chunk) == chosen


def test_a_large_client_counts_in_the_choice(monkeypatch):
    # All at once everybody waits for the client of 16 examples; in turn nobody does.
    times = {"vmap": 1.0, "map": 1.5}
    monkeypatch.setattr(
        "jaxfuse.federated.choose._time",
        lambda plan, data, state: times[plan.executor] if plan.chunk == 1 else 9.0,
    )
    uneven = toy.clients((np.arange(16), *[np.arange(1)] * 5))
    for data, chosen in ((uneven, "map"), (toy.clients([np.arange(4)] * 3), "vmap")):
        fixed = (toy.module(), data, toy.dataset().test(), RoundConfig(batch_size=4))
        assert federate(*fixed, rounds=1, key=jax.random.key(0)).plan.executor == chosen


def test_more_rounds_learn():
    result = run(rounds=60, config=RoundConfig(batch_size=4, learning_rate=0.2), executor="vmap")
    assert result.history[-1].train_loss < 0.75 * result.history[0].train_loss


KILLED = """
import os, sys
import jax
from tests.federated.test_federate import run
from jaxfuse.federated import Scaffold

def die(row):
    if row.round == 2:
        os._exit(9)

run(local=Scaffold(), checkpoint_dir=sys.argv[1], progress=die)
"""


def test_a_killed_run_goes_on_to_the_last_bit(tmp_path):
    script = textwrap.dedent(KILLED)
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], cwd=Path(__file__).parents[2]
    )
    assert killed.returncode == 9
    told = []
    options = {"local": "scaffold", "checkpoint_dir": tmp_path / "run", "progress": told.append}
    resumed = run(**options)
    assert [row.round for row in told] == [1, 2, 3]
    # The executor that the killed run had timed is kept; the whole run gets it by name.
    executor = {"executor": resumed.plan.executor}
    assert_same(resumed, run(local="scaffold", **executor))
    assert_same(resumed, run(**options))


def test_another_run_s_folder_is_refused(tmp_path):
    run(rounds=1, checkpoint_dir=tmp_path, executor="vmap")
    with pytest.raises(ValueError, match="another config"):
        run(rounds=1, checkpoint_dir=tmp_path, executor="vmap", seed=6)


def test_divergence_of_all_is_an_error():
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        run(config=RoundConfig(batch_size=4, learning_rate=1e30, epochs=3), executor="vmap")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rounds": 0}, "1 or more"),
        ({"local": "fedsgd"}, "local='fedsgd' is none of"),
        ({"aggregate": "mean"}, "aggregate='mean' is none of"),
        ({"chunk": 0}, "1 or more"),
    ],
)
def test_what_does_not_fit_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        run(**options)


def test_clients_apart_and_variates_do_not_go_together():
    params = functional(toy.module())[1]
    begin = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), params)
    with pytest.raises(ValueError, match="other orders"):
        run(local="scaffold", begin=begin)


def test_logs(tmp_path):
    from tensorboardX import proto  # noqa: F401  (installed with jaxfuse)

    with RunLogs(tmp_path, {"local": "sgd"}) as logs:
        result = run(evaluate_every=2, executor="vmap", progress=logs.add)
        picture = logs.plot("three clients")
    lines = (tmp_path / "rounds.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("round,accuracy,loss,train_loss")
    import json

    rows = json.loads((tmp_path / "rounds.json").read_text())["rounds"]
    assert rows[0]["accuracy"] is None
    assert rows[1]["accuracy"] == pytest.approx(result.history[1].accuracy)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train_loss" in events.read_bytes()
