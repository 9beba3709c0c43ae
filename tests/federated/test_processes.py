"""Two processes on the loopback give what one gives."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from tests.federated.test_federate import run

ROOT = Path(__file__).parents[2]


def test_two_processes_agree_with_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    file = tmp_path / "network.npz"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/federated/of_two.py"), port]
    processes = [
        subprocess.Popen([*command, str(rank), str(file)], env=environment) for rank in (0, 1)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    right = run(rounds=2, local="scaffold", executor="vmap")
    with np.load(file) as found:
        arrays = [found[name] for name in found.files]
    for got, want in zip(arrays, jax.tree.leaves(right.params), strict=False):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(arrays[-1], [row.accuracy for row in right.history])
