"""Processes on this machine that answer a call together."""

import multiprocessing
import os
import socket
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax

from jaxfuse.bench.timing import Call

_SECONDS = 300.0


class ProcessGroup:
    """Processes joined by `jax.distributed` over the loopback, each with one device of the host.

    They start at the first call; a further one costs a message to each and its answer. They end
    with the group.

    Args:
        count: how many.
        enter: called in each process once all are joined; what it returns answers the calls. It and
            the answers are pickled.
    """

    def __init__(self, count: int, enter: Callable[[], Call]) -> None:
        self._count, self._enter = count, enter
        self._pipes: list[Connection] = []

    def __call__(self) -> list[Any]:
        """Return what every process answers.

        Raises:
            RuntimeError: if a process ends or does not answer in five minutes.
        """
        if not self._pipes:
            self._start()
        try:
            for pipe in self._pipes:
                pipe.send(None)
            return [self._answer(rank, pipe) for rank, pipe in enumerate(self._pipes)]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes; the next call starts others."""
        if self._pipes:
            self._end()
            self._pipes.clear()

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        context = multiprocessing.get_context("spawn")
        processes = []
        for rank in range(self._count):
            own, other = context.Pipe()
            arguments = (other, self._enter, address, self._count, rank)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            other.close()
            processes.append(process)
            self._pipes.append(own)
        self._end = weakref.finalize(self, _kill, processes)

    def _answer(self, rank: int, pipe: Connection) -> Any:
        try:
            if pipe.poll(_SECONDS):
                return pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"process {rank} of {self._count} ended: see its output") from error
        raise RuntimeError(f"process {rank} of {self._count} gave no answer in {_SECONDS:.0f} s")


def _serve(
    pipe: Connection, enter: Callable[[], Call], address: str, count: int, rank: int
) -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=1"
    jax.distributed.initialize(address, num_processes=count, process_id=rank)
    call = enter()
    while True:
        pipe.recv()
        pipe.send(call())


def _kill(processes: list[Any]) -> None:
    # The first leads the others, who would complain if they outlived it.
    for process in reversed(processes):
        process.kill()
        process.join()
