"""The permutation tables of Git Re-Basin's four architectures, and the architectures.

A table names per leaf one label for each axis: axes of one label are permuted together
(Ainsworth, Hayase and Srinivasa 2023). The widths of the networks are narrow; the tables know
nothing of widths.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Table = dict[str, tuple[str | None, ...]]


def dense(name: str, source: str | None, target: str | None) -> Table:
    """Kernel `[in, out]` and bias."""
    return {f"{name}/kernel": (source, target), f"{name}/bias": (target,)}


def conv(name: str, source: str | None, target: str | None, *, bias: bool = False) -> Table:
    """Kernel `[height, width, in, out]`, with or without a bias."""
    kernel = {f"{name}/kernel": (None, None, source, target)}
    return kernel | ({f"{name}/bias": (target,)} if bias else {})


def norm(name: str, label: str) -> Table:
    """Scale and bias."""
    return {f"{name}/scale": (label,), f"{name}/bias": (label,)}


def block(name: str, source: str, target: str) -> Table:
    """Two convolutions beside a shortcut, which has one of its own where the labels differ."""
    inner = f"{name} inside"
    parts = (
        conv(f"{name}/conv1", source, inner)
        | norm(f"{name}/norm1", inner)
        | conv(f"{name}/conv2", inner, target)
        | norm(f"{name}/norm2", target)
    )
    if source == target:
        return parts
    return parts | conv(f"{name}/shortcut", source, target) | norm(f"{name}/norm3", target)


def mlp_table() -> Table:
    """Three hidden layers."""
    labels = (None, "hidden 0", "hidden 1", "hidden 2", None)
    table: Table = {}
    for number in range(4):
        table |= dense(f"Dense_{number}", labels[number], labels[number + 1])
    return table


def vgg16_table() -> Table:
    """Thirteen convolutions with norms, then three dense layers."""
    table: Table = {}
    before = None
    for number in range(13):
        label = f"channels {number}"
        table |= conv(f"Conv_{number}", before, label, bias=True) | norm(
            f"LayerNorm_{number}", label
        )
        before = label
    for number, label in enumerate(("units 0", "units 1", None)):
        table |= dense(f"Dense_{number}", before, label)
        before = label
    return table


def resnet20_table() -> Table:
    """Three groups of three blocks; the first blocks of two groups widen."""
    table = conv("conv1", None, "stream 0") | norm("norm1", "stream 0")
    for group in range(3):
        for number in range(3):
            widens = group > 0 and number == 0
            source = f"stream {group - widens}"
            table |= block(f"group{group}_block{number}", source, f"stream {group}")
    return table | dense("dense", "stream 2", None)


def torch_norm(name: str, label: str) -> Table:
    """Batch normalisation with its statistics."""
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (label,) for leaf in leaves}


def torch_conv(name: str, source: str | None, target: str) -> Table:
    """Weight `[out, in, height, width]`."""
    return {f"{name}.weight": (target, source, None, None)}


def resnet50_table() -> Table:
    """Four groups of bottlenecks, the first of each with a convolution beside it."""
    table = torch_conv("conv1", None, "stem") | torch_norm("bn1", "stem")
    before = "stem"
    for group, blocks in enumerate(RESNET50_BLOCKS):
        stream = f"stream {group}"
        for number in range(blocks):
            name = f"layer{group + 1}.{number}"
            labels = (before, f"{name} first", f"{name} second", stream)
            for layer in (1, 2, 3):
                table |= torch_conv(f"{name}.conv{layer}", *labels[layer - 1 : layer + 1])
                table |= torch_norm(f"{name}.bn{layer}", labels[layer])
            if number == 0:
                table |= torch_conv(f"{name}.downsample.0", before, stream)
                table |= torch_norm(f"{name}.downsample.1", stream)
            before = stream
    return table | {"fc.weight": (None, before), "fc.bias": (None,)}


class Mlp(nn.Module):
    """784 inputs, three hidden layers, ten classes."""

    width: int = 512

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for _ in range(3):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.log_softmax(nn.Dense(10)(x))


class Vgg16(nn.Module):
    """Convolutions with layer norm, five poolings."""

    width: int = 4

    @nn.compact
    def __call__(self, x):
        for multiple, depth in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
            for _ in range(depth):
                x = nn.Conv(multiple * self.width, (3, 3))(x)
                x = nn.relu(nn.LayerNorm()(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(8 * self.width)(x))
        return nn.log_softmax(nn.Dense(10)(x))


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x):
        stride = (self.stride, self.stride)
        y = nn.Conv(self.features, (3, 3), stride, use_bias=False, name="conv1")(x)
        y = nn.relu(nn.LayerNorm(name="norm1")(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False, name="conv2")(y)
        y = nn.LayerNorm(name="norm2")(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (3, 3), stride, use_bias=False, name="shortcut")(x)
            x = nn.LayerNorm(name="norm3")(x)
        return nn.relu(x + y)


class ResNet20(nn.Module):
    """Three groups of three blocks."""

    width: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3, 3), use_bias=False, name="conv1")(x)
        x = nn.relu(nn.LayerNorm(name="norm1")(x))
        for group in range(3):
            for number in range(3):
                stride = 2 if group > 0 and number == 0 else 1
                features = self.width * 2**group
                x = Block(features, stride, name=f"group{group}_block{number}")(x)
        return nn.log_softmax(nn.Dense(10, name="dense")(x.mean((1, 2))))


RESNET50_BLOCKS = (3, 4, 6, 3)


def resnet50_shapes(width: int = 4) -> dict[str, Any]:
    """Shapes of the leaves of ResNet-50, named as PyTorch names them."""
    sizes: dict[str, int | None] = {"stem": width}
    for group, blocks in enumerate(RESNET50_BLOCKS):
        sizes[f"stream {group}"] = 4 * width * 2**group
        for number in range(blocks):
            for place in ("first", "second"):
                sizes[f"layer{group + 1}.{number} {place}"] = width * 2**group
    leaves: dict[str, Any] = {}
    for path, labels in resnet50_table().items():
        spatial = {"conv1.weight": 7}.get(path, 3 if "conv2" in path else 1)
        outer = {"fc.weight": (10,), "fc.bias": (10,)}.get(path, ())
        shape = [*outer, *(sizes[label] for label in labels if label is not None)]
        if path == "conv1.weight":
            shape.append(3)
        if len(labels) == 4:
            shape += [spatial, spatial]
        leaves[path] = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
        if path.endswith("running_var"):
            counter = path.replace("running_var", "num_batches_tracked")
            leaves[counter] = jax.ShapeDtypeStruct((), jnp.int32)
    return leaves


def resnet50(params: dict[str, Any], x: Any) -> Any:
    """ResNet-50 in inference mode, images `[batch, channels, height, width]`."""

    def convolve(x, name, stride=1):
        kernel = params[f"{name}.weight"]
        margin = kernel.shape[-1] // 2
        return lax.conv_general_dilated(x, kernel, (stride,) * 2, [(margin, margin)] * 2)

    def normalise(x, name):
        scale, shift, mean, variance = (
            params[f"{name}.{leaf}"][None, :, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) * lax.rsqrt(variance + 1e-5) * scale + shift

    def bottleneck(x, name, stride):
        y = nn.relu(normalise(convolve(x, f"{name}.conv1"), f"{name}.bn1"))
        y = nn.relu(normalise(convolve(y, f"{name}.conv2", stride), f"{name}.bn2"))
        y = normalise(convolve(y, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in params:
            x = convolve(x, f"{name}.downsample.0", stride)
            x = normalise(x, f"{name}.downsample.1")
        return nn.relu(x + y)

    x = nn.relu(normalise(convolve(x, "conv1", 2), "bn1"))
    x = lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), [(0, 0), (0, 0), (1, 1), (1, 1)]
    )
    for group, blocks in enumerate(RESNET50_BLOCKS):
        for number in range(blocks):
            stride = 2 if group > 0 and number == 0 else 1
            x = bottleneck(x, f"layer{group + 1}.{number}", stride)
    return x.mean((2, 3)) @ params["fc.weight"].T + params["fc.bias"][None]
