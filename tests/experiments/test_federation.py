"""The tables of federated rounds, on a tiny federation."""

import dataclasses

import pytest

from jaxfuse.experiments import FEDERATED_TABLES, Nursery, resume, run
from jaxfuse.federated import RoundConfig


@pytest.mark.parametrize("name", list(FEDERATED_TABLES))
def test_every_scale_has_the_issue_s_methods(name):
    for scale in ("ci", "cpu", "full"):
        table = FEDERATED_TABLES[name](scale)
        assert len(set(table.cells())) == len(table.cells())
        assert table.config.weighting == "uniform"
        methods = {method for start in table.starts for method in start.methods}
        assert {"fedavg", "fedma", "ot_fusion", "gamf", "matched"} <= methods
    assert [start.clients for start in FEDERATED_TABLES["clients"]("cpu").starts] == [5, 10, 16, 20]


def test_a_run_its_table_and_its_picture(tmp_path):
    table = FEDERATED_TABLES["apart"]("ci")
    start = dataclasses.replace(table.starts[0], clients=2, methods=("fedavg", "matched"))
    table = dataclasses.replace(
        table,
        starts=(start,),
        width=0.05,
        rounds=2,
        config=RoundConfig(weighting="uniform", learning_rate=0.02),
    )
    path = tmp_path / "results.json"
    results = resume("apart", "ci", table, path)
    told = []
    nursery = Nursery(tmp_path, tell=lambda text, share: told.append(share))
    run(table, results, path, nursery)
    assert told == [0.5, 1.0, 0.5, 1.0]
    values = results.of(start.name, "matched", table.seeds)[0]
    assert len(values["accuracy"]) == 2
    # Networks that begin apart have other orders, those of one round later have not.
    assert values["kept"][0] < 0.9
    assert values["kept"][1] > 0.9
    text = table.markdown(results)
    assert f"{100 * values['accuracy'][-1]:.2f}" in text
    assert "73.43 ± 0.59" in text
    assert set(table.figures(results)) == {"rounds"}
