"""Flower's processes on loopback: a SuperLink, SuperNodes, and runs that are handed to them."""

import contextlib
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.federated.flower_app.certificates import Certificates, make_certificates

HOST = "127.0.0.1"
_START_SECONDS = 60


class Federation:
    """Processes that are running.

    Attributes:
        folder: where their logs are: `superlink.log`, `node-0.log` and so on.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def run(
        self,
        app: Path,
        config: Mapping[str, str | bool | int | float],
        *more: str,
        show: Callable[[str], None] = lambda line: None,
    ) -> str:
        """Hand an app to the SuperLink, wait for its end, and return the log of its server.

        Args:
            app: folder of the app.
            config: what differs from the app's own settings.
            *more: options of `flwr run`.
            show: called with every line of the log as it comes.

        Raises:
            RuntimeError: `flwr run` fails.
        """
        pairs = " ".join(f"{name}={json.dumps(value)}" for name, value in config.items())
        command = [_script("flwr"), "run", str(app), "loopback", "--stream", *more]
        command += ["--run-config", pairs] if pairs else []
        environment = _environment(self.folder / "cli")
        lines = []
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout or ():
                lines.append(line)
                show(line.rstrip())
        if process.returncode:
            raise RuntimeError(f"flwr run ended with {process.returncode}:\n{''.join(lines)}")
        return "".join(lines)


@contextlib.contextmanager
def deployed(folder: Path, nodes: int) -> Iterator[Federation]:
    """Start a SuperLink and SuperNodes that speak TLS, and stop them at the end.

    Up to Flower 1.39 SuperNodes reach the SuperLink by gRPC, from 1.40 on by HTTPS.

    Args:
        folder: an empty folder for certificates, settings and logs.
        nodes: number of SuperNodes, which get partition ids from 0.
    """
    certificates = make_certificates(folder)
    port, fleet, *node_ports = _free_ports(2 + nodes)
    link = [
        *("--ssl-ca-certfile", certificates.authority),
        *("--ssl-certfile", certificates.server),
        *("--ssl-keyfile", certificates.key),
    ]
    if speaks_grpc():
        link += ["--fleet-api-address", f"{HOST}:{fleet}"]
    else:
        fleet = port
    commands = {"superlink": _superlink(port, *link)}
    for number, node_port in enumerate(node_ports):
        commands[f"node-{number}"] = [
            _script("flower-supernode"),
            *("--superlink", f"{HOST}:{fleet}"),
            *("--root-certificates", certificates.authority),
            *("--host", HOST, "--port", node_port),
            *("--node-config", f"partition-id={number} num-partitions={nodes}"),
        ]
    with _started(folder, commands, port, certificates) as federation:
        yield federation


@contextlib.contextmanager
def simulated(folder: Path) -> Iterator[Federation]:
    """Start a SuperLink that runs clients in its simulation engine, and stop it at the end.

    Args:
        folder: an empty folder for settings and logs.
    """
    (port,) = _free_ports(1)
    commands = {"superlink": _superlink(port, "--simulation", "--insecure")}
    with _started(folder, commands, port, None) as federation:
        yield federation


def speaks_grpc() -> bool:
    """Tell whether the installed Flower connects SuperNodes by gRPC."""
    major, minor, *_ = importlib.metadata.version("flwr").split(".")
    return (int(major), int(minor)) < (1, 40)


def _superlink(port: int, *more: object) -> list[object]:
    return [
        _script("flower-superlink"),
        *("--host", HOST, "--port", port),
        # It would look for the app's dependencies at a package index.
        "--disable-runtime-dependency-installation",
        *more,
    ]


@contextlib.contextmanager
def _started(
    folder: Path,
    commands: Mapping[str, Sequence[object]],
    port: int,
    certificates: Certificates | None,
) -> Iterator[Federation]:
    security = (
        f'root-certificates = "{certificates.authority}"' if certificates else "insecure = true"
    )
    (folder / "cli").mkdir()
    (folder / "cli" / "config.toml").write_text(
        f'[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\naddress = "{HOST}:{port}"\n'
        f"{security}\n"
    )
    processes = []
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [str(word) for word in command],
                    env=_environment(folder / name),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            processes.append(process)
        _wait_for(port, processes[0], folder / "superlink.log")
        yield Federation(folder)
    finally:
        _stop(processes)


def _environment(home: Path) -> dict[str, str]:
    """Return an environment in which Flower reaches nothing outside this machine.

    Every process has its own home: apps are unpacked there, and two that do so at once collide.
    """
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        # A client app is a new process in every round: what one has compiled, the others read.
        "JAX_COMPILATION_CACHE_DIR": str(home.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the SuperLink does not answer:\n{log.read_text()}")


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + 5
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        # What it started is in its group, and outlives it where it was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
