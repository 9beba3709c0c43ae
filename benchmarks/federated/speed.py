"""One federated round three ways: compiled, as a Python loop over clients, and by Flower.

Run from the root of the repository: `python -m benchmarks.federated.speed`.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.sharding import AxisType
from rich.console import Console
from rich.table import Table

from benchmarks.record import write_json
from jaxfuse.data import Dataset, load
from jaxfuse.federated import (
    Average,
    Clients,
    LocalSGD,
    Plan,
    RoundConfig,
    advance,
    initial_state,
)
from jaxfuse.federated.choose import choose_executor, with_executor
from jaxfuse.federated.placement import spread
from jaxfuse.federated.training import Network
from jaxfuse.models import create, functional
from jaxfuse.models.functional import training_function
from jaxfuse.symmetry import infer_symmetry

PyTree = Any


@dataclass(frozen=True)
class Case:
    """A network and a dataset, of which every client has so many examples."""

    name: str
    dataset: str
    model: str
    width: float
    examples: int


CASES = (
    Case("MLP, digits", "digits", "mlp", 0.25, 64),
    Case("LeNet, digits", "digits", "lenet", 1.0, 64),
    Case("MLP, MNIST", "mnist", "mlp", 0.25, 256),
    Case("LeNet, MNIST", "mnist", "lenet", 1.0, 128),
)


@dataclass(frozen=True)
class Config:
    """Time a round of FedAvg: compiled, as a loop over clients with a jitted step, by Flower.

    The loop keeps data on the host, draws batches with NumPy, calls a compiled step for each and
    averages with `jax.tree.map`, as tutorials do. Flower's simulation has a client app that does
    the same. The contestants take turns; Flower's rounds are timed by its strategy, after the
    first two.

    Attributes:
        clients: how many.
        batch_size: examples a step.
        repeats: rounds timed after the first; their median is reported.
        flower: also time Flower's simulation (pip install 'jaxfuse[simulation]').
        scaling: numbers of clients for the slope, on the first case.
        json: file for the results.
        data_dir: folder of prepared TFDS datasets.
    """

    clients: int = 20
    batch_size: int = 32
    repeats: int = 7
    flower: bool = True
    scaling: tuple[int, ...] = (5, 10, 20, 40, 80)
    json: Path | None = None
    data_dir: Path | None = None


def main(config: Config) -> None:
    console = Console()
    rows: list[dict[str, Any]] = []
    for case in CASES:
        data = load(case.dataset, config.data_dir)
        problem = Problem(case, config, data, config.clients)
        rows.append(compare(problem, config))
        console.print(rows[-1])
    counts, seconds = config.scaling, []
    for count in counts:
        problem = Problem(CASES[0], config, load("digits"), count)
        seconds.append(median(problem.compiled()[0], 3 * config.repeats))
    slope = float(np.polyfit(np.log(counts), np.log(seconds), 1)[0])
    scaling = {"clients": counts, "seconds": seconds, "slope": slope}
    table = Table(
        "case", "executor", "round, ms", "loop, ms", "loop / round", "Flower, ms", "/ round"
    )
    for row in rows:
        flower = row["flower"]
        table.add_row(
            row["case"],
            row["executor"],
            f"{1e3 * row['compiled']:.1f}",
            f"{1e3 * row['loop']:.1f}",
            f"{row['loop'] / row['compiled']:.1f}",
            "-" if flower is None else f"{1e3 * flower:.0f}",
            "-" if flower is None else f"{flower / row['compiled']:.0f}",
        )
    console.print(table)
    times = ", ".join(f"{n}: {1e3 * s:.2f} ms" for n, s in zip(counts, seconds, strict=True))
    console.print(f"{CASES[0].name}, seconds against clients: slope {slope:.2f} ({times})")
    if config.json is not None:
        write_json(config.json, {"clients": config.clients, "rows": rows, "scaling": scaling})


class Problem:
    """A round of one case, to be done in several ways from the same weights."""

    def __init__(self, case: Case, config: Config, data: Dataset, clients: int) -> None:
        self.case, self.config, self.data = case, config, data
        generator = np.random.default_rng(0)
        count = len(data.train_labels)
        drawn = [generator.permutation(count) for _ in range(-(-clients * case.examples // count))]
        order = np.concatenate(drawn)[: clients * case.examples]
        self.shards = [np.unique(part) for part in np.split(order, clients)]
        shape = {"input_shape": data.input_shape, "classes": data.classes}
        self.module = create(case.model, **shape, width=case.width, key=jax.random.key(0))
        self.infer, self.params = functional(self.module)

    def compiled(self) -> tuple[Callable[[], Any], str]:
        """Return the compiled round, and the executor that a timing chose."""
        example = jax.ShapeDtypeStruct((2, *self.data.input_shape), jnp.float32)
        devices = jax.devices()
        plan = Plan(
            network=Network(training_function(self.module), self.infer, products=True),
            config=RoundConfig(batch_size=self.config.batch_size),
            local=LocalSGD(),
            aggregator=Average(),
            symmetry=infer_symmetry(self.infer, self.params, example),
            mesh=jax.make_mesh((len(devices),), ("clients",), (AxisType.Auto,)),
        )
        clients = Clients.of(self.data, self.shards)
        state = initial_state(plan, self.params, clients.count, jax.random.key(0))
        plan = with_executor(plan, choose_executor(plan, clients, state))
        if plan.executor == "shard_map" and plan.mesh is not None:
            state, clients = spread(state, clients, plan.mesh)
        held = [state]

        def run() -> Any:
            held[0], report = advance(plan, clients, held[0])
            return held[0].params, report

        products = ", products" if plan.network.products and "LeNet" in self.case.name else ""
        return run, plan.executor + products

    def loop(self) -> Callable[[], Any]:
        """Return the round as a loop over clients, with one compiled step."""
        images, labels = self.data.train()
        params = [self.params]

        def run() -> Any:
            arrived = [
                train(self, params[0], images[shard], labels[shard]) for shard in self.shards
            ]
            sizes = np.array([len(shard) for shard in self.shards], np.float32)
            shares = sizes / sizes.sum()
            params[0] = jax.tree.map(
                lambda *leaves: sum(s * leaf for s, leaf in zip(shares, leaves, strict=True)),
                *arrived,
            )
            return params[0]

        return run


def train(problem: Problem, params: PyTree, images: np.ndarray, labels: np.ndarray) -> PyTree:
    """Train one client for an epoch, batch by batch."""
    step, optimiser = compiled_step(problem.module)
    state = optimiser.init(params)
    order = np.random.default_rng(0).permutation(len(labels))
    for first in range(0, len(labels), problem.config.batch_size):
        rows = order[(first + np.arange(problem.config.batch_size)) % len(labels)]
        params, state = step(params, state, images[rows], labels[rows])
    return params


@functools.cache
def compiled_step(module: Any) -> tuple[Callable, optax.GradientTransformation]:
    """Return the step of the loop, compiled once."""
    forward = training_function(module)
    optimiser = optax.chain(optax.add_decayed_weights(1e-5), optax.sgd(0.01, momentum=0.9))

    @jax.jit
    def step(params: PyTree, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(params: PyTree) -> jax.Array:
            logits, _ = forward(params, images)
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses)

        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step, optimiser


def compare(problem: Problem, config: Config) -> dict[str, Any]:
    """Time all contestants of a case."""
    (compiled, executor), loop = problem.compiled(), problem.loop()
    for warm in (compiled, loop):
        jax.block_until_ready(warm())
    times: dict[str, list[float]] = {"compiled": [], "loop": []}
    for _ in range(config.repeats):
        for name, call in (("compiled", compiled), ("loop", loop)):
            times[name].append(seconds_of(call))
    found: dict[str, Any] = {name: float(np.median(each)) for name, each in times.items()}
    found["flower"] = flower_round(problem, config) if config.flower else None
    return {
        **dataclasses.asdict(problem.case),
        "case": problem.case.name,
        "executor": executor,
    } | found


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the seconds of one call, until its result is there."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def median(call: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of a call after the first."""
    jax.block_until_ready(call())
    return float(np.median([seconds_of(call) for _ in range(repeats)]))


def flower_round(problem: Problem, config: Config) -> float:
    """Return the median seconds of a round in Flower's simulation, after the first two."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    from jaxfuse.federated.flower import from_record, to_record

    stamps: list[float] = []
    case, clients = problem.case, config.clients

    class Timed(FedAvg):
        def configure_train(self, *arguments: Any) -> Any:
            stamps.append(time.perf_counter())
            return super().configure_train(*arguments)

    client_app, server_app = ClientApp(), ServerApp()

    @client_app.train()
    def fit(message: Message, context: Context) -> Message:
        # One process serves many clients: it makes the problem once.
        own = problem_of(case, config, clients)
        shard = own.shards[int(context.node_config["partition-id"])]
        images, labels = normalised(case.dataset, config)
        params = train(own, from_record(message.content["arrays"]), images[shard], labels[shard])
        metrics = MetricRecord({"num-examples": len(shard)})
        content = {"arrays": to_record(params), "metrics": metrics}
        return Message(RecordDict(content), reply_to=message)

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = Timed(fraction_evaluate=0.0, min_available_nodes=clients)
        arrays: ArrayRecord = to_record(problem.params)
        strategy.start(grid, arrays, num_rounds=2 + config.repeats)
        stamps.append(time.perf_counter())

    run_simulation(
        server_app,
        client_app,
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return float(np.median(np.diff(stamps)[2:]))


@functools.cache
def problem_of(case: Case, config: Config, clients: int) -> Problem:
    """Return the problem in a process of Flower's."""
    return Problem(case, config, load(case.dataset, config.data_dir), clients)


@functools.cache
def normalised(dataset: str, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return the training examples in a process of Flower's."""
    return load(dataset, config.data_dir).train()


if __name__ == "__main__":
    main(tyro.cli(Config, description=Config.__doc__))
