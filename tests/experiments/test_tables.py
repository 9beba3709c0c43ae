"""Every table from parents to Markdown, on tiny networks; and what is committed."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxfuse.experiments import EXPERIMENTS, TABLES, Nursery, Results, renew, report, resume, run
from jaxfuse.experiments.families import SCALES
from jaxfuse.experiments.recipes import RECIPES
from jaxfuse.experiments.similarity import _perturb, rank_correlation
from tests.experiments.fakes import small

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMMITTED = {name: BENCHMARKS / name.replace("-", "_") for name in EXPERIMENTS}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_shows_what_it_measures(name, cache, tmp_path):
    table = small(name)
    results = resume(name, "ci", table, tmp_path / "results.json")
    results = run(table, results, tmp_path / "results.json", Nursery(cache))
    assert list(results.cells) == table.cells()
    files = report(table, results, tmp_path)
    text = files[0].read_text()
    assert "nan" not in text
    assert "Not run" not in text
    assert len(files) == 2
    assert files[1].read_bytes().startswith(PNG)
    assert f"({files[1].name})" in text
    for cell, values in results.cells.items():
        for key in ("average", "own", "noise", "fitted", "finetuned", "pseudo"):
            if isinstance(values.get(key), float):
                assert 0 <= values[key] <= 1
                assert f"{100 * values[key]:.2f}" in text, (cell, key)


def test_proportions_go_from_parent_to_parent(cache, tmp_path):
    table = small("mnist")
    path = tmp_path / "results.json"
    results = run(table, resume("mnist", "ci", table, path), path, Nursery(cache))
    row = table.families[0].name
    parents = results.of(row, "parents", (0,))[0]["accuracy"]
    for method in ("plain", "ot_weights"):
        curve = results.of(row, method, (0,))[0]["curve_average"]
        np.testing.assert_allclose([curve[0], curve[-1]], parents, atol=1e-6)
    ensemble = results.of(row, "ensemble", (0,))[0]
    np.testing.assert_allclose(ensemble["curve"], [parents[0], ensemble["accuracy"], parents[1]])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TABLES)
def test_configurations_are_sound(name, scale):
    table = TABLES[name](scale)
    rows = [family.name for family in table.families]
    assert len(set(rows)) == len(rows)
    assert set(table.methods) <= set(RECIPES)
    assert len(table.seeds) == (1 if scale == "ci" else 3)
    for family in table.families:
        assert (family.dataset == "digits") == (scale == "ci" or "the digits" in family.name)
        if family.dataset == "cifar10":
            assert (family.train_split, family.test_split) == ("train[:40000]", "train[40000:]")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_perturbations_move_a_share_of_the_units(share):
    order = np.random.default_rng(1).permutation(40)
    moved = np.asarray(_perturb(order, share, np.random.default_rng(0)))
    assert sorted(moved) == list(range(40))
    assert np.sum(moved != order) == (max(2, round(40 * share)) if share else 0)


def test_rank_correlation_is_scipys_with_the_interval_of_resampled_points():
    generator = np.random.default_rng(1)
    x = generator.normal(size=80)
    y = x + generator.normal(size=80)
    found = rank_correlation(x, y, 400)
    ranks = [stats.rankdata(each) for each in (x, y)]
    np.testing.assert_allclose(found.value, np.corrcoef(*ranks)[0, 1])
    resampled = []
    for _ in range(400):
        rows = generator.integers(80, size=80)
        ranks = [stats.rankdata(each[rows]) for each in (x, y)]
        resampled.append(np.corrcoef(*ranks)[0, 1])
    expected = np.percentile(resampled, [2.5, 97.5])
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.05)


def test_a_document_is_renewed_between_its_marks_alone(tmp_path):
    document = tmp_path / "README.md"
    document.write_text("a\n<!-- table x -->\nold\n<!-- end x -->\nb\n<!-- table y -->\n")
    renew(document, "x", "## T\n\n### R\n\n![x](x.png)\n")
    assert document.read_text() == (
        "a\n<!-- table x -->\n\n### T\n\n#### R\n\n![x](x/x.png)\n\n<!-- end x -->\nb\n"
        "<!-- table y -->\n"
    )
    with pytest.raises(ValueError, match="table y"):
        renew(document, "y", "")


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in COMMITTED.values() for path in folder.glob("*/results.json")),
    ids=lambda path: path.parent.name,
)
def test_committed_tables_are_those_of_their_results(path, tmp_path):
    (tables,) = (EXPERIMENTS[name] for name, at in COMMITTED.items() if path.is_relative_to(at))
    results = Results.load(path)
    seeds = tuple(sorted({cell.seed for cell in results.cells}))
    table = dataclasses.replace(tables[results.table](results.scale), seeds=seeds)
    fresh = Results.start(results.table, results.scale, table)
    assert fresh.config == results.config, "the configuration has changed: run the table again"
    shown = (path.parent / "table.md").read_text()
    pictures = re.findall(r"!\[\w+\]\((\w+)\.png\)", shown)
    assert all((path.parent / f"{name}.png").stat().st_size < 1_000_000 for name in pictures)
    assert shown.startswith(table.markdown(results).rstrip())
    document = tmp_path / "README.md"
    readme = (path.parents[1] / "README.md").read_text()
    document.write_text(readme)
    renew(document, path.parent.name, shown)
    assert document.read_text() == readme
