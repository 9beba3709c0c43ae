"""Pairs shared by two processes on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxfuse import align_pairs
from tests.align.networks import batch, item
from tests.align.of_two import COUNT, PLAIN, RANDOM

ROOT = Path(__file__).parents[2]
_SECONDS = 240


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """What each of the two processes found for its half of the pairs."""
    folder = tmp_path_factory.mktemp("halves")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    logs = [folder / f"{rank}.log" for rank in (0, 1)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            command = [
                sys.executable,
                "-m",
                "tests.align.of_two",
                str(rank),
                str(port),
                str(folder),
            ]
            with log.open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=environment, stdout=output, stderr=output
                    )
                )
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(_SECONDS) == 0, log.read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [np.load(folder / f"{rank}.npz") for rank in (0, 1)]


def whole(halves, name):
    return np.concatenate([half[name] for half in halves])


def test_same_as_one_process(halves):
    a, b = batch(COUNT), batch(COUNT, seed=1)
    want = align_pairs(a, b, **PLAIN)
    for index, leaf in enumerate(want.params):
        np.testing.assert_array_equal(whole(halves, f"params/{index}"), leaf)
    np.testing.assert_allclose(whole(halves, "objective"), want.objective, rtol=1e-6)
    to_one = align_pairs(item(a, 0), b, one_reference=True, key=jax.random.key(1), **RANDOM)
    for group, order in to_one.permutations.items():
        np.testing.assert_array_equal(whole(halves, f"to_one/{group}"), order)


def test_arrays_of_one_process_are_refused(halves):
    for half in halves:
        assert "leaf '0' of params_b" in str(half["refused"])
        assert "jax.make_array_from_process_local_data" in str(half["refused"])
