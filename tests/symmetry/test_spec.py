import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import align_params
from jaxfuse.symmetry import Symmetry, TensorAxes, infer_chain, permute, verify
from tests.symmetry.networks import image, randomise, torch_state


def test_hand_written_table_equals_the_inferred_symmetry():
    params, apply_fn, x = torch_state()
    params = randomise(params)
    table = {
        "conv1.weight": ("c", None, None, None),
        "fc1.weight": ("f", ("c", 9)),
        "fc2.weight": (None, "f"),
        "conv1.bias": ("c",),
        "fc1.bias": ("f",),
        **{f"bn1.{n}": ("c",) for n in ("weight", "bias", "running_mean", "running_var")},
    }
    written, inferred = Symmetry.from_axes(table, params), infer_chain(params)
    assert verify(written, apply_fn, params, x, key=jax.random.key(1)).holds
    assert [t.path for t in inferred.tensors if t.statistic] == [
        "bn1.running_mean",
        "bn1.running_var",
    ]
    names = {"conv1": "c", "fc1": "f", None: None}
    assert written.groups == {names[g]: n for g, n in inferred.sizes}
    by_path = {t.path: t for t in written.tensors}
    for tensor in inferred.tensors:
        other = by_path[tensor.path]
        assert other.shape == tensor.shape
        assert other.groups == tuple(names[g] for g in tensor.groups)
        assert (other.edge, other.statistic) == (tensor.edge, tensor.statistic)
        assert len(tensor.shape) == 1 or other.output == tensor.output


@pytest.mark.parametrize(
    ("path", "shape", "axes", "edge"),
    [
        ("kernel", (3, 3, 2, 4), (None, None, None, "g"), (0, 1)),
        ("kernel", (3, 3, 4, 2), (None, None, "g", None), (0, 1)),
        ("kernel", (3, 3, 4, 4), (None, None, "g", "g"), (0, 1)),
        ("weight", (4, 2, 3, 3), ("g", None, None, None), (2, 3)),
        ("weight", (2, 4, 3, 3), (None, "g", None, None), (2, 3)),
        ("kernel", (2, 4), (None, "g"), ()),
        ("kernel", (36, 2), ((9, "g"), None), (0,)),
    ],
)
def test_edges_are_the_taps_and_positions(path, shape, axes, edge):
    params = {path: jnp.ones(shape), "bias": jnp.ones(4)}
    symmetry = Symmetry.from_axes({path: axes, "bias": ("g",)}, params)
    assert {t.path: t.edge for t in symmetry.tensors}[path] == edge


def test_factors_keep_their_order(key):
    params = {"kernel": jnp.arange(6.0)[:, None], "bias": jnp.ones(2)}
    last, first = (
        Symmetry.from_axes({"kernel": (factors, None), "bias": ("g",)}, params)
        for factors in ((3, "g"), ("g", 3))
    )
    swap = {"g": jnp.array([1, 0])}
    moved = permute(params, last, swap)["kernel"][:, 0]
    np.testing.assert_array_equal(moved, [1, 0, 3, 2, 5, 4])
    moved = permute(params, first, swap)["kernel"][:, 0]
    np.testing.assert_array_equal(moved, [3, 4, 5, 0, 1, 2])


def test_transformer_like_product_of_two_groups(key):
    # One axis that is heads times units of a head: both permute, and edges lie between them.
    params = randomise({"kernel": jnp.zeros((3, 8)), "head": jnp.zeros(2), "unit": jnp.zeros(4)})
    symmetry = Symmetry.from_axes(
        {"kernel": (None, ("heads", "units")), "head": ("heads",), "unit": ("units",)}, params
    )
    assert symmetry.groups == {"heads": 2, "units": 4}

    def apply_fn(p, x):
        y = (x @ p["kernel"]).reshape(-1, 2, 4)
        return jnp.einsum("nhu,h,u->n", jnp.tanh(y), p["head"], p["unit"])

    assert verify(symmetry, apply_fn, params, image(5, 3), key=key).holds


def test_pinned_leaves_are_left_out():
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    symmetry = Symmetry.from_axes({"kernel": (None, "g"), "bias": (None,)}, params)
    assert [t.path for t in symmetry.tensors] == ["kernel"]


PARAMS = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2)), "flat": jnp.ones((12, 2))}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"c": (None, "h")}, "no leaf 'c'.*hold"),
        ({"a": (None, "h", None)}, r"leaf 'a' has shape \(3, 8\), and 3 axes"),
        ({"a": (None, "h"), "b": (None, "h")}, "group 'h' has size 8, and leaf 'b'.*axis of 2"),
        ({"flat": ((3, "h"), None)}, "size of group 'h' in leaf 'flat' is unknown"),
        ({"a": (None, "h"), "flat": ((3, "h"), None)}, r"'flat'.*can't be viewed as \(3, 8, 2\)"),
    ],
)
def test_wrong_tables_are_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        Symmetry.from_axes(axes, PARAMS)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": PARAMS["a"]}, "speaks of leaf 'b'.*another model"),
        ({"a": jnp.ones((3, 9)), "b": jnp.ones((8, 2))}, r"views leaf 'a' as \(3, 8\).*\(3, 9\)"),
        ({"a": jnp.ones((8, 3)), "b": PARAMS["b"]}, r"\(8, 3\).*neighbouring axes.*or layout"),
        ({"a": jnp.ones((2, 12)), "b": PARAMS["b"]}, r"views leaf 'a' as \(3, 8\)"),
        ({"a": jnp.ones((3, 8, 1)), "b": PARAMS["b"]}, r"views leaf 'a' as \(3, 8\)"),
        ({"a": jnp.ones((3, 8), int), "b": PARAMS["b"]}, "'a' carries a group.*no array of real"),
    ],
)
def test_parameters_of_another_model_are_refused(params, message):
    symmetry = Symmetry.from_axes({"a": (None, "h"), "b": ("h", None)}, PARAMS)
    with pytest.raises(ValueError, match=message):
        symmetry.check(params)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((6, 4, 1, 5), True),
        ((2, 12, 1, 5), True),
        ((24, 5), True),
        ((6, 4, 5), True),
        ((2, 3, 4, 1, 5), True),
        ((120,), True),
        ((4, 6, 5), False),
        ((8, 3, 5), False),
        ((6, 4, 5, 1), False),
        ((), False),
    ],
)
def test_view_is_the_shape_with_axes_split(shape, fits):
    view = TensorAxes("w", (2, 3, 4, 1, 5), (None, "h", None, None, None))
    symmetry = Symmetry((("h", 3),), (view,))
    if fits:
        symmetry.check({"w": jnp.ones(shape)})
    else:
        with pytest.raises(ValueError, match="neighbouring axes"):
            symmetry.check({"w": jnp.ones(shape)})


@pytest.mark.parametrize(
    ("path", "shape", "axes", "output"),
    [
        ("W1", (3, 4), (None, "g"), 1),
        ("W2", (4, 3), ("g", None), None),
        ("taps", (3, 3, 2, 4), (None, None, None, "g"), 3),
        ("table", (3, 8), (None, (2, "g")), 2),
        ("weight", (4, 3), ("g", None), 0),
        ("weight", (3, 4), (None, "g"), 0),
        ("kernel", (3, 4), (None, "g"), 1),
        ("bias", (2, 4), (None, "g"), None),
        ("running_mean", (1, 4), (None, "g"), None),
        ("scale", (4,), ("g",), None),
    ],
)
def test_outputs_by_name_and_by_default(path, shape, axes, output):
    params = {path: jnp.ones(shape), "b": jnp.ones(4)}
    symmetry = Symmetry.from_axes({path: axes, "b": ("g",)}, params)
    assert {t.path: t.output for t in symmetry.tensors} == {path: output, "b": None}


def test_symmetry_is_a_static_argument_of_jit():
    params = [jnp.arange(24.0).reshape(3, 8), jnp.ones((8, 2))]
    table = {"0": (None, "h"), "1": ("h", None)}
    traces = []

    @jax.jit
    def move(params, symmetry, permutations):
        traces.append(symmetry)
        return permute(params, symmetry, permutations)

    permutations = {"h": jnp.arange(8)[::-1]}
    for _ in range(2):
        moved = move(params, Symmetry.from_axes(table, params), permutations)
    assert len(traces) == 1
    np.testing.assert_array_equal(moved[0], params[0][:, ::-1])
    assert jax.tree.leaves(traces[0]) == []
    spec = Symmetry.from_axes(table, params)
    alignment = jax.jit(align_params)(params, moved, symmetry=spec)
    np.testing.assert_array_equal(alignment.params[0], params[0])
