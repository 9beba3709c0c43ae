"""Comparisons against direct calls, the table, the picture."""

import io
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from jaxfuse.affinity import Linear
from jaxfuse.align import align_params
from jaxfuse.connectivity import barrier
from jaxfuse.fusion import average, fuse
from jaxfuse.matching import CoordinateAscent
from jaxfuse.models import create, functional
from jaxfuse.reporting import Comparison, Curve, Row, compare, comparison_table, plot_barriers
from jaxfuse.reporting import comparison as comparison_module
from jaxfuse.status import Status
from jaxfuse.symmetry import (
    Symmetry,
    infer_chain,
    infer_symmetry,
    permute,
    random_permutations,
)
from jaxfuse.training import evaluate
from tests.oracles import classifier

SOLVER = CoordinateAscent()
PNG = b"\x89PNG\r\n\x1a\n"


def apply_fn(params, images):
    return jax.nn.relu(images @ params["0"]["kernel"]) @ params["1"]["kernel"]


def network(seed: int) -> dict:
    generator = np.random.default_rng(seed)
    shapes = {"0": (3, 4), "1": (4, 2)}
    return {
        name: {"kernel": generator.normal(size=shape).astype(np.float32)}
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def networks() -> list[dict]:
    return [network(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def examples() -> tuple[np.ndarray, np.ndarray]:
    # More than one batch of a thousand.
    generator = np.random.default_rng(9)
    images = generator.normal(size=(1100, 3)).astype(np.float32)
    return images, generator.integers(0, 2, 1100).astype(np.int32)


@pytest.fixture(scope="module")
def pair(networks, examples) -> tuple[Comparison, list[tuple[str, float]]]:
    told: list[tuple[str, float]] = []
    comparison = compare(
        networks[:2],
        apply_fn,
        *examples,
        affinities={"linear": Linear()},
        method=SOLVER,
        weights=[1, 3],
        names=["left", "right"],
        points=5,
        progress=lambda text, share: told.append((text, share)),
    )
    return comparison, told


def assert_row(row: Row, params, examples) -> None:
    metrics = evaluate(apply_fn, params, *examples)
    np.testing.assert_allclose(row.accuracy, metrics.accuracy, rtol=1e-6)
    np.testing.assert_allclose(row.loss, metrics.loss, rtol=1e-5)


def ensemble(networks, examples) -> tuple[float, float]:
    """Accuracy and cross entropy of the mean probabilities, in float64."""
    images, labels = examples
    logits = np.stack([classifier.mlp(params, images) for params in networks])
    exponentials = np.exp(logits)
    probabilities = (exponentials / exponentials.sum(axis=2, keepdims=True)).mean(axis=0)
    return classifier.metrics(np.log(probabilities), labels)


def test_rows_of_a_pair_agree_with_direct_calls(pair, networks, examples):
    comparison, _ = pair
    left, right = networks[:2]
    rows = {row.name: row for row in comparison.rows}
    assert list(rows) == [
        "left",
        "right",
        "prediction ensemble",
        "plain average",
        "aligned average, linear",
    ]
    assert_row(rows["left"], left, examples)
    assert_row(rows["right"], right, examples)
    both = rows["prediction ensemble"]
    np.testing.assert_allclose(
        (both.accuracy, both.loss), ensemble([left, right], examples), rtol=1e-5
    )
    assert_row(rows["plain average"], average([left, right], [1, 3]), examples)
    fused = fuse([left, right], [1, 3], affinity=Linear(), method=SOLVER)
    jax.tree.map(np.testing.assert_array_equal, comparison.fused, {"linear": fused})
    assert_row(rows["aligned average, linear"], fused, examples)
    assert rows["left"].seconds is rows["right"].seconds is None
    assert all(row.seconds >= 0 for row in comparison.rows[2:])


def test_curves_of_a_pair_agree_with_direct_calls(pair, networks, examples):
    comparison, _ = pair
    left, right = networks[:2]
    aligned = align_params(left, right, affinity=Linear(), method=SOLVER).params
    rows = {row.name: row.barrier for row in comparison.rows}
    for curve, name, other in (
        (comparison.curves[0], "plain average", right),
        (comparison.curves[1], "aligned average, linear", aligned),
    ):
        direct = barrier(lambda p: evaluate(apply_fn, p, *examples).loss, left, other, 5)
        np.testing.assert_allclose(curve.ts, direct.ts)
        np.testing.assert_allclose(curve.losses, direct.losses, rtol=1e-5)
        np.testing.assert_allclose(curve.barrier, direct.linear, rtol=1e-4, atol=1e-6)
        assert rows.pop(name) == curve.barrier
    assert [curve.name for curve in comparison.curves] == ["not aligned", "aligned, linear"]
    assert set(rows.values()) == {None}


def test_progress_rises_to_one(pair):
    _, told = pair
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], told[-1]) == (0.0, ("done", 1.0))
    assert {text for text, _ in told} >= {"evaluating the parents", "aligning, linear affinity"}


def test_three_networks_have_no_path(networks, examples):
    comparison = compare(
        networks, apply_fn, *examples, affinities={"linear": Linear()}, method=SOLVER
    )
    assert comparison.curves == []
    assert {row.barrier for row in comparison.rows} == {None}
    assert [row.name for row in comparison.rows[:3]] == ["parent 0", "parent 1", "parent 2"]
    both = comparison.rows[3]
    np.testing.assert_allclose((both.accuracy, both.loss), ensemble(networks, examples), rtol=1e-5)
    fused = fuse(networks, affinity=Linear(), method=SOLVER)
    jax.tree.map(np.testing.assert_array_equal, comparison.fused["linear"], fused)
    assert_row(comparison.rows[-1], fused, examples)


def test_ensemble_of_a_sure_and_wrong_network_has_a_finite_loss(examples):
    images, labels = examples
    sure = {"0": {"kernel": jnp.full((3, 4), 1e4)}, "1": {"kernel": jnp.ones((4, 2))}}
    sure["1"]["kernel"] = sure["1"]["kernel"].at[:, 0].set(-1e4)
    comparison = compare([sure, sure], apply_fn, images, labels, affinities={}, points=2)
    assert np.isfinite(comparison.rows[2].loss)


@pytest.fixture(scope="module")
def group_norm():
    """An MLP of 16, 8 and 4 units, of which the first are normalised in two groups."""
    module = create(
        "mlp", input_shape=(1, 3, 1), classes=2, width=0.04, norm="group", key=jax.random.key(0)
    )
    return functional(module)


def test_units_in_groups_of_a_normalisation_are_aligned(group_norm, examples):
    apply_group, params = group_norm
    symmetry = infer_symmetry(apply_group, params, examples[0][:2])
    assert symmetry.contexts("dense/0") != ()
    moved = permute(params, symmetry, random_permutations(symmetry, jax.random.key(1)))
    assert not np.array_equal(moved["dense"]["0"]["kernel"], params["dense"]["0"]["kernel"])
    comparison = compare(
        [params, moved],
        apply_group,
        *examples,
        affinities={"linear": Linear()},
        method=SOLVER,
        points=3,
    )
    jax.tree.map(
        lambda got, wanted: np.testing.assert_allclose(got, wanted, atol=1e-6),
        comparison.fused["linear"],
        params,
    )
    assert comparison.rows[-1].barrier == pytest.approx(0, abs=1e-5)


def test_symmetry_of_another_model_is_refused_with_the_groups_that_break_it(group_norm, examples):
    apply_group, params = group_norm
    chain = infer_chain(params)  # a tree does not show the groups of a normalisation
    with pytest.raises(ValueError, match=r"units of 'dense/0' changes .* leave symmetry= out"):
        compare(
            [params, params],
            apply_group,
            *examples,
            affinities={"linear": Linear()},
            symmetry=chain,
        )


def test_symmetry_that_is_given_is_used(networks, examples):
    # Nothing may be permuted, so the aligned average is the plain one, scaled or not.
    symmetry = infer_chain(networks[0]).pin("*")
    comparison = compare(
        networks[:2],
        apply_fn,
        *examples,
        affinities={"linear": Linear()},
        symmetry=symmetry,
        points=2,
    )
    plain = average(networks[:2])
    jax.tree.map(np.testing.assert_array_equal, comparison.fused["linear"], plain)


def test_trace_that_is_wrong_is_not_blamed_on_the_user(networks, examples, monkeypatch):
    wrong = Symmetry.from_axes({"0/kernel": (None, "0")}, networks[0])
    monkeypatch.setattr(comparison_module, "infer_symmetry", lambda *arguments: wrong)
    with pytest.raises(ValueError, match="a rule of the tracer is wrong"):
        compare(networks[:2], apply_fn, *examples, affinities={"linear": Linear()})


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_model_with_another_norm_is_accepted(norm, examples):
    images, labels = examples
    pair = []
    for seed in (0, 1):
        module = create(
            "mlp", input_shape=(1, 3, 1), classes=2, width=0.02, norm=norm, key=jax.random.key(seed)
        )
        apply_norm, params = functional(module)
        generator = np.random.default_rng(seed)
        pair.append(
            jax.tree.map(
                lambda leaf, g=generator: np.asarray(leaf * g.uniform(0.5, 1.5, leaf.shape), "f4"),
                params,
            )
        )
    comparison = compare(
        pair, apply_norm, images, labels, affinities={"linear": Linear()}, method=SOLVER, points=2
    )
    assert np.isfinite(comparison.rows[-1].loss)


def test_non_finite_weights_are_named_as_such(networks, examples):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, networks[0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        compare([broken, networks[1]], apply_fn, *examples, affinities={"linear": Linear()})


def test_status_says_which_matching_did_not_converge(networks, examples, pair):
    assert [row.status for row in pair[0].rows[:-1]] == [None] * 4
    first = networks[0]
    comparison = compare(
        [first, first, networks[1]],
        apply_fn,
        *examples,
        affinities={"linear": Linear()},
        method=SOLVER,
        names=["one", "same", "other"],
    )
    status = comparison.rows[-1].status
    assert status is not None
    assert status.startswith(f"same: ALREADY_ALIGNED, {Status.ALREADY_ALIGNED.message}")
    assert "other" not in status


def test_table_has_a_line_for_every_row_and_the_best_in_bold():
    rows = [
        Row("moving average of a parent", 0.99, 0.05),
        Row("prediction ensemble", 0.98, 0.0612),
        Row("plain average", 0.5, 1.25, 1.5, 0.001),
        Row("aligned average, linear", 0.97125, 0.1, 0.05, 12.345),
        Row("aligned average, gaussian", 0.9, 0.2, -0.0004, 2.0, "right: NOT_CONVERGED, stopped"),
    ]
    table = comparison_table(rows, "mlp on [digits]")
    assert [row.style for row in table.rows] == [None, None, None, "bold", None]
    console = Console(file=io.StringIO(), width=120, markup=False)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert lines[0].strip() == "mlp on [digits]"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [
        ["moving average of a parent", "99.00", "0.050", "-", "-"],
        ["prediction ensemble", "98.00", "0.061", "-", "-"],
        ["plain average", "50.00", "1.250", "1.500", "0.00"],
        ["aligned average, linear", "97.12", "0.100", "0.050", "12.35"],
        ["aligned average, gaussian", "90.00", "0.200", "-0.000", "2.00"],
    ]
    assert lines[-1].strip() == "aligned average, gaussian: right: NOT_CONVERGED, stopped"


CURVES = [
    Curve("not aligned", [0.0, 0.5, 1.0], [0.1, 2.0, 0.2], 1.85),
    Curve("aligned", [0.0, 0.5, 1.0], [0.1, 0.3, 0.2], 0.15),
]


def test_picture_shows_every_curve_with_its_barrier(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig

    def spy(self, *arguments, **options):
        drawn.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    plot_barriers(CURVES, tmp_path / "new" / "barrier.png", "mlp on digits")
    picture = (tmp_path / "new" / "barrier.png").read_bytes()
    assert picture.startswith(PNG)
    assert picture.rstrip().endswith(b"IEND\xaeB`\x82")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "mlp on digits"
    assert [line.get_label() for line in axes.lines] == [
        "not aligned (barrier 1.850)",
        "aligned (barrier 0.150)",
    ]
    for line, curve in zip(axes.lines, CURVES, strict=True):
        np.testing.assert_array_equal(line.get_xydata().T, [curve.ts, curve.losses])


def test_failing_picture_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "barrier.png"
    path.write_bytes(b"old")

    def half(self, file, format):
        file.write(PNG)
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plot_barriers(CURVES, path, "title")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["barrier.png"]
