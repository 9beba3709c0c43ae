import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.matching.nodes import flatten, list_nodes
from jaxfuse.symmetry import Symmetry, infer_symmetry, permute, random_permutations
from jaxfuse.symmetry.chain import infer_chain
from jaxfuse.transport.carriers import computes
from jaxfuse.transport.maps import Maps, fuse_maps, map_params, maps_of_orders
from tests.oracles.transport import map_leaf
from tests.symmetry.nested import NETWORKS, draw, on_device, table


def sizes_of(symmetry):
    return {name: int(np.prod(node.shape)) for name, node in list_nodes(symmetry).items()}


@pytest.mark.parametrize("name", ["attention", "stacked_heads", "direct_sum", "recurrent"])
def test_permutation_maps_permute(name, key):
    shapes, symmetry = NETWORKS[name]()
    params = draw(shapes, 1)

    @jax.jit
    def both(params, key):
        permutations = random_permutations(symmetry, key)
        flat = flatten(symmetry, permutations)
        orders = {node: jnp.stack([jnp.arange(len(p)), p]) for node, p in flat.items()}
        maps = maps_of_orders(orders, sizes_of(symmetry))
        moved = [map_params(params, symmetry, *maps.of(k)) for k in range(2)]
        return moved, permute(params, symmetry, permutations)

    (same, moved), expected = both(params, key)
    for path, leaf in moved.items():
        np.testing.assert_allclose(leaf, expected[path], atol=1e-6, err_msg=path)
        np.testing.assert_allclose(same[path], params[path], atol=1e-6, err_msg=path)


def test_orders_without_a_unit_have_no_mass():
    maps = maps_of_orders({"h": jnp.array([[0, 1, -1], [-1, 0, 1]])}, {"h": 2})
    np.testing.assert_array_equal(maps.mass["h"], [[1, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(maps.to["h"][1], [[0, 0], [1, 0], [0, 1]])
    np.testing.assert_array_equal(maps.back["h"][1], maps.to["h"][1].T)
    unused = maps_of_orders({"h": jnp.array([[1, -1, 0], [0, -1, 1]])}, {"h": 2}).trim()
    np.testing.assert_array_equal(unused.mass["h"], np.ones((2, 2)))
    np.testing.assert_array_equal(unused.to["h"][0], [[0, 1], [1, 0]])


def residual(p, x):
    x = x @ p["stem"] + p["bias"][None]
    x = x + (x @ p["up"]) @ p["down"]
    return x @ p["head"]


@pytest.fixture(scope="module")
def linear_network():
    """A linear residual network with its traced symmetry, whose head does not say its output."""
    shapes = {"stem": (3, 5), "bias": (5,), "up": (5, 4), "down": (4, 5), "head": (5, 2)}
    params = draw(shapes, 0)
    symmetry = infer_symmetry(residual, on_device(params), jnp.ones((2, 3)))
    return params, symmetry


def test_wider_maps_keep_a_linear_function(linear_network):
    params, symmetry = linear_network
    rng = np.random.default_rng(0)
    to, back = {}, {}
    for node, n in sizes_of(symmetry).items():
        to[node] = rng.standard_normal((n + 2, n))
        back[node] = np.linalg.pinv(to[node])
    stream, inner = symmetry.groups
    moved = map_params(on_device(params), symmetry, to, back)
    assert {path: leaf.shape for path, leaf in moved.items()} == {
        "stem": (3, 7),
        "bias": (7,),
        "up": (7, 6),
        "down": (6, 7),
        "head": (7, 2),
    }
    x = rng.standard_normal((8, 3))
    np.testing.assert_allclose(residual(moved, x), residual(params, x), rtol=1e-3, atol=1e-4)
    oracle = {
        "up": ((stream, inner), ("back", "to")),
        "down": ((inner, stream), ("back", "to")),
        "head": ((stream, None), ("back", None)),
        "bias": ((stream,), ("to",)),
    }
    for path, (axes, roles) in oracle.items():
        expected = map_leaf(np.float64(params[path]), axes, to, back, roles)
        np.testing.assert_allclose(moved[path], expected, rtol=1e-4, atol=1e-5, err_msg=path)


def test_fused_units_are_shared_by_mass(linear_network):
    _, symmetry = linear_network
    stream, inner = symmetry.groups
    shapes = {"stem": (3, 5), "bias": (5,), "up": (5, 4), "down": (4, 5), "head": (5, 2)}
    params = [draw(shapes, seed) for seed in range(2)]
    rng = np.random.default_rng(1)
    maps = Maps(
        {g: tuple(rng.random((6, n)) for _ in range(2)) for g, n in symmetry.sizes},
        {g: tuple(rng.random((n, 6)) for _ in range(2)) for g, n in symmetry.sizes},
        {g: np.array([[1.0, 1, 1, 1, 0, 0], [1, 1, 0.5, 0, 1, 0]]) for g, _ in symmetry.sizes},
    )
    weights = np.array([0.3, 0.7])
    fused = fuse_maps([on_device(p) for p in params], [symmetry] * 2, maps, weights.tolist())
    parts = []
    for k, tree in enumerate(params):
        to, back = ({g: each[k] for g, each in side.items()} for side in (maps.to, maps.back))
        mass = maps.mass[stream]
        whole = weights @ mass
        share = weights[k] * mass[k] / np.where(whole > 0, whole, 1)
        to = {g: share[:, None] * each for g, each in to.items()}
        axes = {
            "stem": ((None, stream), (None, "to")),
            "bias": ((stream,), ("to",)),
            "up": ((stream, inner), ("back", "to")),
            "down": ((inner, stream), ("back", "to")),
            "head": ((stream, None), ("back", None)),
        }
        moved = {
            path: map_leaf(np.float64(tree[path]), *axes[path][:1], to, back, axes[path][1])
            for path in tree
        }
        moved["head"] = weights[k] * moved["head"]
        parts.append(moved)
    for path, leaf in fused.items():
        np.testing.assert_allclose(leaf, parts[0][path] + parts[1][path], rtol=1e-5, atol=1e-6)


def test_pinned_blocks_are_averaged():
    # The first two outputs are pinned, the others carry a group.
    shapes, symmetry = table(
        {"h": 3},
        {"in": ((4, 5), ([4, "h"], (None, ((2, 3, 1),)))), "out": ((3, 2), ["h", 2])},
    )
    params = [draw(shapes, seed) for seed in range(2)]
    maps = maps_of_orders({"h": jnp.tile(jnp.arange(3), (2, 1))}, {"h": 3})
    fused = fuse_maps([on_device(p) for p in params], [symmetry] * 2, maps, [0.25, 0.75])
    for path, leaf in fused.items():
        expected = 0.25 * params[0][path] + 0.75 * params[1][path]
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, err_msg=path)


def test_running_variances_take_squares():
    params = {"kernel": jnp.ones((2, 3)), "mean": jnp.arange(3.0), "var": jnp.arange(1.0, 4)}
    axes = {"kernel": (None, "h"), "mean": ("h",), "var": ("h",)}
    symmetry = Symmetry.from_axes(axes, params)
    to = np.array([[0.5, 0.5, 0], [0, 0, 2]], np.float32)
    moved = map_params(params, symmetry, {"h": to}, {"h": to.T})
    np.testing.assert_allclose(moved["mean"], to @ params["mean"])
    np.testing.assert_allclose(moved["var"], to**2 @ params["var"])
    maps = Maps({"h": (to, to)}, {"h": (to.T, to.T)}, {"h": jnp.ones((2, 2))})
    fused = fuse_maps([params, params], [symmetry] * 2, maps, [0.5, 0.5])
    np.testing.assert_allclose(fused["var"], to**2 @ params["var"])


def test_half_precision_is_summed_in_single():
    first = {"kernel": jnp.full((1, 1), 1.0, jnp.bfloat16)}
    second = {"kernel": jnp.full((1, 1), 1.0078125, jnp.bfloat16)}
    symmetry = Symmetry.from_axes({"kernel": (None, "h")}, first)
    one = jnp.ones((1, 1))
    maps = Maps({"h": (one * 1.01, one)}, {"h": (one, one)}, {"h": jnp.ones((2, 1))})
    assert map_params(first, symmetry, *maps.of(0))["kernel"].dtype == jnp.bfloat16
    fused = fuse_maps([first, second], [symmetry] * 2, maps, [0.5, 0.5])["kernel"]
    assert fused.dtype == jnp.bfloat16
    assert fused[0, 0] == jnp.bfloat16((1.01 + 1.0078125) / 2)


def test_other_widths_of_nested_units_and_blocks_are_refused():
    shapes, symmetry = NETWORKS["attention"]()
    params = on_device(draw(shapes, 0))
    with pytest.raises(ValueError, match=r"indexed by another group.*stays 12: got maps to 13"):
        map_params(params, symmetry, {"qk": np.ones((13, 12))}, {"qk": np.ones((12, 13))})
    shapes, symmetry = NETWORKS["direct_sum"]()
    params = on_device(draw(shapes, 0))
    with pytest.raises(ValueError, match="holds several blocks"):
        map_params(params, symmetry, {"b": np.ones((5, 4))}, {"b": np.ones((4, 5))})
    shapes, symmetry = NETWORKS["grouped_convolution"]()
    params = on_device(draw(shapes, 0))
    with pytest.raises(ValueError, match=r"'conv1' carries several groups that one axis indexes"):
        map_params(params, symmetry, {"b": np.eye(9)}, {"b": np.eye(9)})


def test_which_leaves_compute_units():
    params = [jnp.ones((3, 4)), jnp.ones(4), jnp.ones((4, 1))]
    for tensor in infer_chain(params).tensors:
        assert computes(infer_chain(params), tensor, list(tensor.groups).index("0")) == (
            tensor.path != "2"
        )

    def network(p, tokens):
        x = p["embed"][tokens] + p["position"][None] + p["token"]
        return x @ p["head"].T + p["bias"][None, None]

    shapes = {"embed": (7, 4), "position": (5, 4), "token": (1, 1, 4), "head": (3, 4), "bias": (3,)}
    traced = on_device(draw(shapes, 0))
    symmetry = infer_symmetry(network, traced, jnp.zeros((2, 5), int))
    told = {
        t.path: computes(symmetry, t, len(t.shape) - 1) for t in symmetry.tensors if any(t.groups)
    }
    assert told == {"embed": True, "position": True, "token": True, "head": False}
    table_of = Symmetry.from_axes({"s": ("h", None, None)}, {"s": jnp.ones((4, 1, 1))})
    assert computes(table_of, table_of.tensors[0], 0)
