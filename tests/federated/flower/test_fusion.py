"""The strategy over client apps in this process, against NumPy in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxfuse.federated.aggregation import Aggregated
from jaxfuse.federated.flower import FusionStrategy, fusion, named_arrays, to_record
from tests.federated.flower.clients import PARAMS, app_of, run, shifted, strategy_of
from tests.federated.flower.grid import InProcessGrid


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


def test_bfloat16_models_stay_bfloat16():
    params = {"w": np.ones((2, 2), ml_dtypes.bfloat16)}

    def change(client, arrays):
        assert arrays["w"].dtype == ml_dtypes.bfloat16
        return {"w": arrays["w"] + ml_dtypes.bfloat16(client)}

    result = run(InProcessGrid(app_of(change), 3), strategy_of(weighted="uniform"), params)
    made = named_arrays(result.arrays)["w"]
    assert made.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(made.astype(np.float32), np.full((2, 2), 2.0))


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
