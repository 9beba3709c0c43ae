"""Federated training: rounds, evaluation, checkpoints."""

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfuse.align.search import resolve
from jaxfuse.federated.aggregation import AGGREGATORS, Aggregator
from jaxfuse.federated.choose import choose_executor, with_executor
from jaxfuse.federated.clients import Clients
from jaxfuse.federated.config import Executor, RoundConfig
from jaxfuse.federated.local import LOCAL_METHODS, LocalMethod
from jaxfuse.federated.placement import here, spread
from jaxfuse.federated.rounds import FederatedState, Plan, advance, initial_state
from jaxfuse.federated.training import Network
from jaxfuse.models.functional import Params, functional, training_function
from jaxfuse.symmetry import infer_symmetry
from jaxfuse.training import Checkpoints, evaluate, fingerprint


class Round(NamedTuple):
    """One row of the history.

    Attributes:
        round: its number, from 1.
        accuracy: of the global network on the test examples, 0 to 1; NaN where not evaluated.
        loss: its mean cross entropy on them, in nats.
        train_loss: mean cross entropy of the clients over their steps.
        clients: how many took part.
        left_out: how many of them came back with a network that is not finite.
        kept: share of units that the matching left in place (`Aggregated`).
        seconds: wall time of the round without evaluation; the first one's has the compilation.
    """

    round: int
    accuracy: float
    loss: float
    train_loss: float
    clients: int
    left_out: int
    kept: float
    seconds: float


class FederatedResult(NamedTuple):
    """What federated training gives.

    Attributes:
        params: of the global network, as `jaxfuse.models.functional` returns it.
        history: one `Round` a round.
        plan: what was compiled, with the executor that was chosen.
    """

    params: Params
    history: tuple[Round, ...]
    plan: Plan


class _Saved(NamedTuple):
    """What a checkpoint holds: a run that goes on keeps its executor, and so its rounding."""

    state: FederatedState
    history: jax.Array
    executor: jax.Array


def federate(
    module: nnx.Module,
    clients: Clients,
    test: tuple[np.ndarray, np.ndarray],
    config: RoundConfig | None = None,
    *,
    rounds: int,
    local: LocalMethod | str = "sgd",
    aggregate: Aggregator | str = "average",
    begin: Params | None = None,
    executor: Executor | Literal["auto"] = "auto",
    chunk: int = 1,
    mesh: Mesh | None = None,
    key: jax.Array,
    evaluate_every: int = 1,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[Round], None] | None = None,
) -> FederatedResult:
    """Train one network on the examples of many clients, round by round.

    A round is one compiled program: the global network goes to the clients, each trains on its own
    examples, and the server makes one network of theirs. Given a checkpoint folder, a run that was
    killed goes on from the last round that ended, and ends like one that never was, to the last
    bit (on CPU and TPU; on GPU, as far as XLA's kernels are deterministic) but for the seconds.

    Args:
        module: Flax NNX module `images -> logits`, the global network of the first round.
        clients: the training examples of all clients.
        test: images `[m, h, w, c]` float32, normalised, and labels `[m]`.
        config: how a round goes; `RoundConfig()` by default.
        rounds: how many in all.
        local: how clients train: a name of `LOCAL_METHODS` or an instance.
        aggregate: what the server does: a name of `AGGREGATORS` or an instance.
        begin: a tree `[N, ...]` of networks that the clients have in the first round in place of
            the global one. By default all set out from the same weights.
        executor: how clients share the machine, as in `run_clients`; "auto" takes what a short
            timing finds fastest, and a mesh of several devices without one. Results differ by
            rounding between executors.
        chunk: clients at a time, for the executor "map".
        mesh: devices with one axis "clients", over which the executor "shard_map" spreads them.
            With several processes (`jax.distributed.initialize`) it has the devices of all, and
            each passes the same arguments.
        key: of everything that is drawn.
        evaluate_every: rounds between two evaluations; the last is always evaluated.
        checkpoint_dir: folder for the checkpoints of this run alone, one a round, of one process.
            None are written by default. The number of rounds is a part of the run.
        progress: called with every `Round`; of a run that goes on, first with those of before. What
            it raises ends the run.

    Returns:
        The network, the history and the plan.

    Raises:
        ValueError: a name is unknown, a number out of range, the parts do not fit each other, or
            the checkpoint folder belongs to another run.
        FloatingPointError: no client of a round came back with a finite network.

    Examples:
        >>> from jaxfuse.data import dirichlet, load_digits
        >>> from jaxfuse.models import create
        >>> digits = load_digits()
        >>> shards = dirichlet(digits.train_labels, clients=4, key=jax.random.key(0))
        >>> model = create("mlp", input_shape=digits.input_shape, classes=10, width=0.1,
        ...                key=jax.random.key(1))
        >>> result = federate(model, Clients.of(digits, shards), digits.test(), rounds=2,
        ...                   executor="vmap", key=jax.random.key(2))
        >>> [each.round for each in result.history], result.history[1].clients
        ([1, 2], 4)
    """
    if rounds < 1 or evaluate_every < 1 or chunk < 1:
        raise ValueError(
            f"rounds, evaluate_every and chunk are 1 or more: got {rounds}, {evaluate_every}, "
            f"{chunk}"
        )
    config = RoundConfig() if config is None else config
    method = resolve("local", local, LOCAL_METHODS)
    infer, params = functional(module)
    example = jax.ShapeDtypeStruct((config.batch_size, *clients.images.shape[1:]), jnp.float32)
    plan = Plan(
        network=Network(training_function(module), infer, products=executor != "map" or chunk > 1),
        config=config,
        local=method,
        aggregator=resolve("aggregate", aggregate, AGGREGATORS),
        symmetry=infer_symmetry(infer, params, example),
        executor="vmap" if executor == "auto" else executor,
        chunk=chunk,
        mesh=mesh,
    )
    state = initial_state(plan, params, clients.count, key)
    devices = 1 if mesh is None else mesh.size
    identity = fingerprint(
        repr((config, method, plan.aggregator, executor, chunk, devices, rounds, evaluate_every)),
        (key, params, begin, clients, test),
    )
    saved = _Saved(state, jnp.full((rounds, len(Round._fields)), jnp.nan), jnp.int32(-1))
    run = _Run(plan, clients, test, rounds, evaluate_every, begin, progress, executor == "auto")
    if checkpoint_dir is None:
        return run.go(saved, lambda saved: None)
    if jax.process_count() > 1:
        raise ValueError(
            "checkpoint_dir is for one process: its files hold arrays of this process alone; run "
            "without it, or with one process for all devices"
        )
    with Checkpoints(checkpoint_dir, identity=identity) as checkpoints:
        restored = checkpoints.restore(saved)
        saved = saved if restored is None else restored[1]
        return run.go(saved, lambda saved: checkpoints.save(int(saved.state.round), saved))


@dataclasses.dataclass(frozen=True)
class _Run:
    plan: Plan
    clients: Clients
    test: tuple[np.ndarray, np.ndarray]
    rounds: int
    evaluate_every: int
    begin: Params | None
    progress: Callable[[Round], None] | None
    choose: bool

    def go(self, saved: _Saved, save: Callable[[_Saved], None]) -> FederatedResult:
        state, history, kind = saved
        plan = self.plan
        if self.choose:
            if int(kind) < 0:
                kind = jnp.int32(choose_executor(plan, self.clients, state))
            plan = with_executor(plan, int(kind))
        clients = self.clients
        if plan.mesh is not None and plan.executor == "shard_map":
            state, clients = spread(state, clients, plan.mesh)
        if self.progress is not None:
            for values in np.asarray(history[: int(state.round)]).tolist():
                self.progress(_row(values))
        while int(state.round) < self.rounds:
            state, row = self._round(plan, clients, state)
            numbers = jnp.array(row, jnp.float32)
            history = history.at[row.round - 1].set(numbers)
            save(_Saved(state, history, kind))
            if self.progress is not None:
                # As the checkpoint has it, so that a run that goes on tells the same.
                self.progress(_row(numbers.tolist()))
        rows = tuple(_row(values) for values in np.asarray(history).tolist())
        return FederatedResult(here(state.params), rows, plan)

    def _round(
        self, plan: Plan, clients: Clients, state: FederatedState
    ) -> tuple[FederatedState, Round]:
        before = time.perf_counter()
        begin = self.begin if int(state.round) == 0 else None
        state, report = jax.block_until_ready(advance(plan, clients, state, begin))
        seconds = time.perf_counter() - before
        number = int(state.round)
        present = np.asarray(report.present)
        if not present.any():
            raise FloatingPointError(
                f"no client of round {number} came back with a finite network: lower learning_rate "
                f"({plan.config.learning_rate})"
            )
        accuracy = loss = float("nan")
        if number % self.evaluate_every == 0 or number == self.rounds:
            accuracy, loss = map(
                float, evaluate(plan.network.infer, here(state.params), *self.test)
            )
        train_loss = float(np.asarray(report.loss)[present].mean())
        left_out, kept = int((~present).sum()), float(report.kept)
        row = Round(number, accuracy, loss, train_loss, len(present), left_out, kept, seconds)
        return state, row


def _row(values: list[float]) -> Round:
    row = Round(*values)  # pyright: ignore[reportArgumentType]
    return row._replace(round=int(row.round), clients=int(row.clients), left_out=int(row.left_out))
