"""The strategy over client apps in this process, against NumPy in float64."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from jaxfuse.federated.aggregation import Aggregated
from jaxfuse.federated.flower import FusionStrategy, fusion, named_arrays, to_record
from tests.federated.flower.grid import InProcessGrid

PARAMS = {
    "dense": {
        "0": {"kernel": np.arange(12.0, dtype=np.float32).reshape(3, 4)},
        "1": {"kernel": np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)},
    }
}


def app_of(change, examples=lambda client: 10 * (client + 1), more=lambda client: {}):
    """A client app whose client k replies `change(k, arrays)`."""
    app = ClientApp()

    @app.train()
    def fit(message, context):
        client = context.node_config["partition-id"]
        arrays = change(client, named_arrays(message.content["arrays"]))
        metrics = {"num-examples": examples(client), "loss": float(client), **more(client)}
        content = {"arrays": to_record(arrays), "metrics": MetricRecord(metrics)}
        return Message(RecordDict(content), reply_to=message)

    return app


def shifted(client, arrays):
    return {name: each + np.float32(client) for name, each in arrays.items()}


def run(grid, strategy, params=PARAMS, rounds=1):
    return strategy.start(grid, to_record(params), num_rounds=rounds)


def strategy_of(aggregator="average", nodes=3, **options):
    options = {"fraction_evaluate": 0.0, "min_train_nodes": nodes, **options}
    return FusionStrategy(aggregator, **options)


@pytest.mark.parametrize(("weighted", "mean"), [("examples", 8 / 6), ("uniform", 1.0)])
def test_the_average_is_that_of_numpy(weighted, mean):
    result = run(InProcessGrid(app_of(shifted), 3), strategy_of(weighted=weighted))
    for name, each in named_arrays(to_record(PARAMS)).items():
        wanted = each.astype(np.float64) + mean
        np.testing.assert_allclose(named_arrays(result.arrays)[name], wanted, rtol=1e-6)
    metrics = result.train_metrics_clientapp[1]
    assert (metrics["clients-used"], metrics["clients-failed"]) == (3, 0)
    # Metrics are weighted by examples whatever the networks are, as in FedAvg.
    assert metrics["loss"] == pytest.approx(8 / 6)


def faulty(client, arrays):
    kernel = arrays["dense/0/kernel"]
    match client:
        case 1:
            kernel = np.where(kernel == 5, np.nan, kernel)
        case 2:
            kernel = kernel.T
        case 3:
            raise RuntimeError("out of memory\n")
        case 6:
            return {"dense/0/kernel": kernel}
    return {**arrays, "dense/0/kernel": kernel + np.float32(1)}


def test_the_round_goes_on_without_faulty_clients_and_says_so(caplog):
    grid = InProcessGrid(app_of(faulty), 7)
    grid.silent, grid.gone = {104}, {105}
    result = run(grid, strategy_of(nodes=7), rounds=2)
    wanted = PARAMS["dense"]["0"]["kernel"] + 2
    np.testing.assert_array_equal(named_arrays(result.arrays)["dense/0/kernel"], wanted)
    for metrics in result.train_metrics_clientapp.values():
        counts = [metrics[f"clients-{what}"] for what in ("used", "refused", "failed")]
        assert counts == [1, 3, 3]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message for message in said if message.startswith("round 2")] == [
        "round 2 refuses the reply of node 101: leaf 'dense/0/kernel' is not finite: 1 of 12 "
        "entries",
        "round 2 refuses the reply of node 102: leaf 'dense/0/kernel' has shape (4, 3), and the "
        "model's is (3, 4)",
        "round 2 goes on without node 103: error 2: RuntimeError('out of memory\\n')",
        "round 2 goes on without node 104: no reply before the round's timeout",
        "round 2 goes on without node 105: error 5: node unavailable",
        "round 2 refuses the reply of node 106: leaf 'dense/1/kernel' is missing",
    ]


@pytest.mark.parametrize(
    ("examples", "reason"),
    [(0, "is 0, not a positive"), (float("nan"), "is nan, not"), (-1, "is -1"), ([1], r"is \[1\]")],
)
def test_counts_of_examples_are_screened(examples, reason, caplog):
    app = app_of(shifted, examples=lambda client: examples if client == 1 else 1)
    run(InProcessGrid(app, 2), strategy_of(nodes=2))
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(caplog.text)


def test_replies_of_other_records_are_refused(caplog):
    app = ClientApp()

    @app.train()
    def fit(message, context):
        client, arrays = context.node_config["partition-id"], message.content["arrays"]
        count = MetricRecord({"num-examples": 1})
        unreadable = Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=b"?")
        content = {
            0: {"network": arrays, "metrics": count},
            1: {"x": arrays, "y": arrays, "metrics": count},
            2: {"arrays": arrays},
            3: {"arrays": arrays, "metrics": MetricRecord({"loss": 1.0})},
            4: {"arrays": ArrayRecord({"w": unreadable}), "metrics": count},
        }[client]
        return Message(RecordDict(content), reply_to=message)

    run(InProcessGrid(app, 5), strategy_of(nodes=5))
    for part in (
        "node 101: record 'arrays' is missing; there are ['x', 'y']",
        "node 102: there are 0 metric records, not one",
        "node 103: metric 'num-examples' is missing; there are ['loss']",
        "node 104: leaf 'w' cannot be read",
    ):
        assert part in caplog.text
    # As in FedAvg, the only record may have any name.
    assert "node 100" not in caplog.text


def test_without_a_sound_reply_the_network_stays(caplog):
    def poor(client, arrays):
        return {name: np.full_like(each, np.nan) for name, each in arrays.items()}

    seen = []
    strategy = strategy_of(nodes=2)
    grid = InProcessGrid(app_of(poor), 2)
    strategy.start(
        grid, to_record(PARAMS), num_rounds=2, evaluate_fn=lambda _, arrays: seen.append(arrays)
    )
    assert "round 2 has no reply to use: the global network stays" in caplog.text
    for arrays in seen:
        np.testing.assert_array_equal(
            named_arrays(arrays)["dense/0/kernel"], PARAMS["dense"]["0"]["kernel"]
        )


@dataclasses.dataclass(frozen=True)
class Largest:
    """An aggregator of the test's own: entry by entry the largest, times a factor."""

    factor: float = 1.0

    def aggregate(self, clients, weights, anchor, symmetry, key):
        largest = jax.tree.map(lambda leaf: self.factor * leaf.max(0), clients)
        return Aggregated(largest, jnp.float32(jnp.nan))


def test_a_result_that_is_not_finite_is_not_sent(caplog):
    result = run(InProcessGrid(app_of(shifted), 2), strategy_of(Largest(float("inf")), 2))
    assert not result.arrays
    assert "in the new one, leaf 'dense/0/kernel' is not finite" in caplog.text


def test_any_aggregator_is_taken_and_compiled_once_for_a_number_of_clients():
    before = fusion._aggregate._cache_size()
    grid = InProcessGrid(app_of(shifted), 4)
    strategy = strategy_of(Largest(), 4)
    result = run(grid, strategy, rounds=2)
    wanted = PARAMS["dense"]["0"]["kernel"] + 6
    np.testing.assert_array_equal(named_arrays(result.arrays)["dense/0/kernel"], wanted)
    assert "units-kept" not in result.train_metrics_clientapp[1]
    assert fusion._aggregate._cache_size() == before + 1
    grid.silent = {103}
    run(grid, strategy, rounds=2)
    assert fusion._aggregate._cache_size() == before + 2


@dataclasses.dataclass(frozen=True)
class Moved:
    """An aggregator that says how many units stayed."""

    kept: float

    def aggregate(self, clients, weights, anchor, symmetry, key):
        return Aggregated(anchor, jnp.float32(self.kept))


@dataclasses.dataclass(frozen=True)
class Noise:
    """An aggregator that draws."""

    def aggregate(self, clients, weights, anchor, symmetry, key):
        drawn = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), anchor)
        return Aggregated(drawn, jnp.float32(1))


def test_every_round_draws_anew_and_every_run_alike():
    def draw(rounds):
        grid = InProcessGrid(app_of(shifted), 2)
        result = run(grid, strategy_of(Noise(), 2, key=jax.random.key(3)), rounds=rounds)
        return named_arrays(result.arrays)["dense/0/kernel"]

    first, again, second = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()


def test_matching_undoes_the_order_of_a_clients_units():
    order = np.array([2, 0, 3, 1])

    def reordered(client, arrays):
        if client == 0:
            return arrays
        first, second = arrays["dense/0/kernel"], arrays["dense/1/kernel"]
        return {"dense/0/kernel": first[:, order], "dense/1/kernel": second[order]}

    result = run(InProcessGrid(app_of(reordered), 2), strategy_of("matched", 2))
    for name, each in named_arrays(to_record(PARAMS)).items():
        np.testing.assert_allclose(named_arrays(result.arrays)[name], each, atol=1e-6)
    assert result.train_metrics_clientapp[1]["units-kept"] == pytest.approx(1 / 3)


def test_symmetry_is_inferred_from_the_function():
    def apply_fn(params, x):
        dense = params["dense"]
        hidden = jax.nn.relu(x @ dense["0"]["kernel"])
        return hidden @ dense["1"]["kernel"]

    inputs = [jax.ShapeDtypeStruct((1, 3), jnp.float32)]
    strategy = strategy_of("matched", 2, apply_fn=apply_fn, inputs=inputs)
    result = run(InProcessGrid(app_of(lambda client, arrays: arrays), 2), strategy)
    assert result.train_metrics_clientapp[1]["units-kept"] == 1.0


def test_a_model_that_cannot_be_matched_is_refused_before_anybody_trains():
    grid = InProcessGrid(app_of(shifted), 2)
    tangled = {"a": np.ones((3, 4), np.float32), "b": np.ones((5, 6), np.float32)}
    with pytest.raises(ValueError, match="symmetry"):
        run(grid, strategy_of("matched", 2), params=tangled)
    assert not grid.sent
    # The plain average does not mind.
    assert run(grid, strategy_of("average", 2), params=tangled).arrays


def test_statistics_may_stay_with_the_clients(caplog):
    params = {"dense": {"0": {"kernel": np.ones((3, 4), np.float32)}}}
    params["norm"] = {"0": {"mean": np.full(4, 7.0, np.float32)}}
    seen = []

    def change(client, arrays):
        seen.append(sorted(arrays))
        own = {"norm/0/mean": np.full(4, float(client))} if client == 1 else {}
        return {**shifted(client, arrays), **own}

    result = run(InProcessGrid(app_of(change), 2), strategy_of(nodes=2, statistics="keep"), params)
    assert seen == [["dense/0/kernel"]] * 2
    np.testing.assert_array_equal(named_arrays(result.arrays)["norm/0/mean"], np.full(4, 7.0))
    assert result.train_metrics_clientapp[1]["clients-used"] == 2
    assert "refuses" not in caplog.text


@pytest.mark.parametrize(("kept", "warned"), [(1.0, False), (0.99999994, False), (0.75, True)])
def test_statistics_that_did_not_move_with_their_units_are_warned_of(kept, warned, caplog):
    strategy = strategy_of(Moved(kept), 2, statistics="keep")
    run(InProcessGrid(app_of(shifted), 2), strategy)
    assert ("the matching moved units" in caplog.text) is warned


def test_huge_counts_do_not_overflow():
    app = app_of(shifted, examples=lambda client: 1.7e308)
    result = run(InProcessGrid(app, 3), strategy_of())
    wanted = PARAMS["dense"]["0"]["kernel"] + 1
    np.testing.assert_allclose(named_arrays(result.arrays)["dense/0/kernel"], wanted, rtol=1e-6)


def test_bfloat16_models_stay_bfloat16():
    params = {"w": np.ones((2, 2), ml_dtypes.bfloat16)}

    def change(client, arrays):
        assert arrays["w"].dtype == ml_dtypes.bfloat16
        return {"w": arrays["w"] + ml_dtypes.bfloat16(client)}

    result = run(InProcessGrid(app_of(change), 3), strategy_of(weighted="uniform"), params)
    made = named_arrays(result.arrays)["w"]
    assert made.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(made.astype(np.float32), np.full((2, 2), 2.0))


def test_replies_in_float64_count_in_the_models_dtype():
    def wide(client, arrays):
        return {name: each.astype(np.float64) + 1 for name, each in arrays.items()}

    result = run(InProcessGrid(app_of(wide), 2), strategy_of(nodes=2))
    assert named_arrays(result.arrays)["dense/0/kernel"].dtype == np.float32


def test_metrics_of_other_names_are_left_out(caplog):
    app = app_of(shifted, more=lambda client: {"odd": [1.0]} if client == 0 else {})
    result = run(InProcessGrid(app, 3), strategy_of())
    metrics = result.train_metrics_clientapp[1]
    assert metrics["clients-used"] == 3
    assert metrics["loss"] == pytest.approx((20 + 2 * 30) / 50)
    assert "metrics of 1 of 3 replies have other names" in caplog.text


def test_evaluation_goes_on_without_faulty_clients(caplog):
    app = app_of(shifted)

    @app.evaluate()
    def evaluate(message, context):
        client = context.node_config["partition-id"]
        if client == 1:
            raise RuntimeError("no data")
        count = {} if client == 2 else {"num-examples": 2}
        metrics = MetricRecord({"accuracy": 0.25 * client, **count})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    strategy = FusionStrategy("average", min_train_nodes=4, min_evaluate_nodes=4)
    result = run(InProcessGrid(app, 4), strategy)
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(0.375)
    assert "no evaluation by node 101: error 2" in caplog.text
    assert "no evaluation by node 102: metric 'num-examples' is missing" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregator": "averge"}, "aggregator='averge' is none of .*'average'"),
        ({"weighted": "size"}, "weighted must be"),
        ({"statistics": "drop"}, "statistics must be"),
        ({"symmetry": fusion.infer_chain(PARAMS), "apply_fn": abs}, "not both"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FusionStrategy(**options)


def test_a_round_that_asks_nobody_makes_nothing():
    strategy = FusionStrategy(fraction_train=0.0, fraction_evaluate=0.0)
    grid = InProcessGrid(app_of(shifted), 2)
    assert not run(grid, strategy).train_metrics_clientapp
    with pytest.raises(RuntimeError, match="configure_train"):
        strategy.aggregate_train(1, [])
