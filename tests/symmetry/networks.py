"""Chains in every container: a tree with random entries, a function of it, and an input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfuse.models import MLP, LeNet
from jaxfuse.symmetry.tree import is_weight, leaf_name, map_named

rng = np.random.default_rng


def randomise(tree, seed=0):
    """Replace every weight by random numbers, and variances by positive ones."""
    draw = rng(seed)

    def leaf(path, old):
        if not is_weight(old):
            return old
        new = draw.standard_normal(old.shape) / np.sqrt(max(np.prod(old.shape) // 16, 1))
        if leaf_name(path) in ("var", "running_var"):
            new = np.exp(new)
        return jnp.asarray(new, old.dtype)

    return map_named(leaf, tree)


def image(*shape):
    return jnp.asarray(rng(9).standard_normal(shape), jnp.float32)


def dense(x, w, b):
    return jnp.dot(x, w, precision="highest") + b[None]


def nnx_lenet(pure):
    sizes = {"channels": (4, 5), "hidden": (6, 7)}
    model = nnx.eval_shape(
        lambda: LeNet((8, 8, 1), 3, **sizes, bias=True, norm="batch", rngs=nnx.Rngs(0))
    )
    model.eval()
    graph, state = nnx.split(model)
    tree = nnx.to_pure_dict(state) if pure else state
    return tree, lambda p, x: nnx.merge(graph, p)(x), image(2, 8, 8, 1)


def nnx_mlp(norm):
    model = nnx.eval_shape(lambda: MLP(4, 3, hidden=(6, 6), bias=True, norm=norm, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    return state, lambda p, x: nnx.merge(graph, p)(x), image(2, 4)


class LinenNetwork(nn.Module):
    norm: str
    groups: int = 1

    @nn.compact
    def __call__(self, x):
        for features in (4, 6):
            x = nn.Conv(features, (3, 3))(x)
            if self.norm == "batch":
                x = nn.BatchNorm(use_running_average=True)(x)
            elif self.norm == "layer":
                x = nn.LayerNorm()(x)
            else:
                x = nn.GroupNorm(num_groups=self.groups)(x)
            x = nn.relu(x)
        x = nn.relu(nn.Dense(5)(x.reshape(len(x), -1)))
        return nn.Dense(3)(x)


def linen(norm, groups=1):
    model, x = LinenNetwork(norm, groups), image(2, 3, 3, 2)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    return shapes, model.apply, x


def plain_list():
    shapes = [(3, 5), (5,), (5, 5), (5,), (5, 2), (2,)]

    def apply_fn(p, x):
        for w, b in ((p[0], p[1]), (p[2], p[3])):
            x = jnp.tanh(dense(x, w, b))
        return dense(x, p[4], p[5])

    return [jnp.zeros(s) for s in shapes], apply_fn, image(4, 3)


def numbered_names():
    shapes = {"W1": (3, 5), "b1": (5,), "W2": (5, 5), "b2": (5,), "W3": (5, 2)}

    def apply_fn(p, x):
        x = jnp.tanh(dense(x, p["W1"], p["b1"]))
        x = jnp.tanh(dense(x, p["W2"], p["b2"]))
        return x @ p["W3"]

    return {k: jnp.zeros(s) for k, s in shapes.items()}, apply_fn, image(4, 3)


def pairs():
    shapes = [((3, 5), (5,)), ((5, 4), (4,)), ((4, 2), (2,))]

    def apply_fn(p, x):
        for w, b in p[:-1]:
            x = jnp.tanh(dense(x, w, b))
        return dense(x, *p[-1])

    return [tuple(jnp.zeros(s) for s in pair) for pair in shapes], apply_fn, image(4, 3)


def conv_oihw(x, w, b):
    x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME")
    return x + b[None, :, None, None]


def torch_state():
    shapes = {
        "conv1.weight": (4, 2, 3, 3),
        "conv1.bias": (4,),
        "bn1.weight": (4,),
        "bn1.bias": (4,),
        "bn1.running_mean": (4,),
        "bn1.running_var": (4,),
        "fc1.weight": (5, 4 * 9),
        "fc1.bias": (5,),
        "fc2.weight": (3, 5),
        "fc2.bias": (3,),
    }

    def apply_fn(p, x):
        x = conv_oihw(x, p["conv1.weight"], p["conv1.bias"])
        mean, var, scale, bias = (
            p[f"bn1.{n}"][None, :, None, None]
            for n in ("running_mean", "running_var", "weight", "bias")
        )
        x = jax.nn.relu((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias)
        x = jax.nn.relu(dense(x.reshape(len(x), -1), p["fc1.weight"].T, p["fc1.bias"]))
        return dense(x, p["fc2.weight"].T, p["fc2.bias"])

    return {k: jnp.zeros(s) for k, s in shapes.items()}, apply_fn, image(2, 2, 3, 3)


CHAINS = {
    "nnx_state": (lambda: nnx_lenet(False), [4, 5, 6, 7]),
    "nnx_pure_dict": (lambda: nnx_lenet(True), [4, 5, 6, 7]),
    "nnx_mlp_layer_norm": (lambda: nnx_mlp("layer"), [6, 6]),
    "linen_batch_norm": (lambda: linen("batch"), [4, 6, 5]),
    "linen_layer_norm": (lambda: linen("layer"), [4, 6, 5]),
    "linen_group_norm": (lambda: linen("group"), [4, 6, 5]),
    "list": (plain_list, [5, 5]),
    "numbered_names": (numbered_names, [5, 5]),
    "list_of_pairs": (pairs, [5, 4]),
    "torch_state": (torch_state, [4, 5]),
}
