"""Feed-forward networks as PyTorch runs them: NCHW images, OIHW kernels, CHW flatten; float64."""

from collections.abc import Mapping, Sequence

import numpy as np

EPSILON = 1e-5  # PyTorch's default in both normalisations

State = dict[str, np.ndarray]


def random_state(
    generator: np.random.Generator,
    kernels: Mapping[str, tuple[int, ...]],
    norms: Mapping[str, str],
    *,
    bias: bool,
    norm: str | None,
) -> State:
    """A state dict with float32 values.

    Args:
        generator: source of the values.
        kernels: layer to shape, `(out, in)` or `(out, in, h, w)`.
        norms: layer to the name of the normalisation behind it.
        bias: whether the layers have biases.
        norm: None, "batch" or "layer".
    """
    state: State = {}
    for layer, shape in kernels.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        state[f"{layer}.weight"] = scale * generator.normal(size=shape)
        if bias:
            state[f"{layer}.bias"] = generator.normal(size=shape[0])
        if norm is None or layer not in norms:
            continue
        state[f"{norms[layer]}.weight"] = generator.uniform(0.5, 1.5, shape[0])
        state[f"{norms[layer]}.bias"] = generator.normal(size=shape[0])
        if norm == "batch":
            state[f"{norms[layer]}.running_mean"] = generator.normal(size=shape[0])
            state[f"{norms[layer]}.running_var"] = generator.uniform(0.5, 1.5, shape[0])
    state = {name: value.astype(np.float32) for name, value in state.items()}
    if norm == "batch":
        counters = {f"{name}.num_batches_tracked": np.array(7) for name in norms.values()}
        state |= counters
    return state


def forward(
    state: State,
    images: np.ndarray,
    layers: Sequence[str],
    norms: Mapping[str, str],
    *,
    pool_after: Sequence[int] = (),
    mean: bool = False,
) -> np.ndarray:
    """Logits of a chain of layers with ReLU in between.

    Args:
        state: the weights.
        images: `[n, c, h, w]`.
        layers: all layers in order; convolutions keep the size of the image.
        norms: layer to the name of the normalisation behind it, used where the state has it.
        pool_after: numbers of the convolutions with a 2x2 max pooling behind them.
        mean: whether the mean over positions and not a flatten comes before the dense layers.
    """
    x = np.asarray(images, np.float64)
    for index, layer in enumerate(layers):
        weight = np.asarray(state[f"{layer}.weight"], np.float64)
        if weight.ndim == 4:
            x = convolve(x, weight)
        else:
            if x.ndim == 4:
                x = x.mean(axis=(2, 3)) if mean else x.reshape(len(x), -1)
            x = x @ weight.T
        if f"{layer}.bias" in state:
            x = x + per_channel(state[f"{layer}.bias"], x)
        if index == len(layers) - 1:
            return x
        if f"{norms[layer]}.weight" in state:
            x = normalise(state, norms[layer], x)
        x = np.maximum(x, 0)
        if index in pool_after and min(x.shape[2:]) > 1:
            x = max_pool(x)
    raise ValueError("no layers")


def convolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Correlation with OIHW kernels, padded to keep the size."""
    rows, columns = weight.shape[2] // 2, weight.shape[3] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight)


def max_pool(x: np.ndarray) -> np.ndarray:
    """Maximum of every 2x2 window; an odd row or column is dropped."""
    n, c, h, w = x.shape
    x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    return x.max(axis=(3, 5))


def normalise(state: State, name: str, x: np.ndarray) -> np.ndarray:
    """Batch normalisation in inference mode, or layer normalisation over the channels."""
    if f"{name}.running_mean" in state:
        mean = per_channel(state[f"{name}.running_mean"], x)
        var = per_channel(state[f"{name}.running_var"], x)
    else:
        mean, var = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    x = (x - mean) / np.sqrt(var + EPSILON)
    return x * per_channel(state[f"{name}.weight"], x) + per_channel(state[f"{name}.bias"], x)


def per_channel(vector: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A vector `[c]` in the rank of `x`, `[n, c, ...]`."""
    return np.asarray(vector, np.float64).reshape(1, -1, *[1] * (x.ndim - 2))
