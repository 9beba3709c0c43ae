"""A round goes on without the clients whose reply cannot be used, and says so."""

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from jaxfuse.federated.flower import FusionStrategy, named_arrays, to_record
from tests.federated.flower.clients import PARAMS, app_of, run, shifted, strategy_of
from tests.federated.flower.grid import InProcessGrid


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


def test_huge_counts_do_not_overflow():
    app = app_of(shifted, examples=lambda client: 1.7e308)
    result = run(InProcessGrid(app, 3), strategy_of())
    wanted = PARAMS["dense"]["0"]["kernel"] + 1
    np.testing.assert_allclose(named_arrays(result.arrays)["dense/0/kernel"], wanted, rtol=1e-6)


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

    strategy = FusionStrategy("average", min_train_nodes=5, min_evaluate_nodes=5)
    grid = InProcessGrid(app, 5)
    grid.gone = {103}
    result = run(grid, strategy)
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(0.5)
    assert "no evaluation by node 101: error 2" in caplog.text
    assert "no evaluation by node 103: error 5: node unavailable" in caplog.text
    assert "no evaluation by node 102: metric 'num-examples' is missing" in caplog.text


def test_a_round_that_asks_nobody_makes_nothing():
    strategy = FusionStrategy(fraction_train=0.0, fraction_evaluate=0.0)
    grid = InProcessGrid(app_of(shifted), 2)
    assert not run(grid, strategy).train_metrics_clientapp
    with pytest.raises(RuntimeError, match="configure_train"):
        strategy.aggregate_train(1, [])
