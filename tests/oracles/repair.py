"""Repairs of a fused multilayer perceptron, in float64 NumPy, as the papers' formulas have them."""

import numpy as np


def forward(layers, x):
    """Return the inputs and the products of every layer `(kernel, bias)`, ReLU between them."""
    inputs, products = [], []
    for index, (kernel, bias) in enumerate(layers):
        inputs.append(x)
        products.append(x @ kernel)
        x = products[-1] + bias
        if index < len(layers) - 1:
            x = np.maximum(x, 0)
    return inputs, products


def repair(fused, parents, shares, x, kind="repair", closed_form=False):
    """REPAIR, layer by layer: mean and deviation of pre-activations as the parents' mean has."""
    fused = [(kernel.copy(), bias.copy()) for kernel, bias in fused]
    seen = [forward(parent, x)[1] for parent in parents]
    for index in range(len(fused) - 1):
        own = forward(fused, x)[1][index]
        if closed_form:
            own = sum(s * each[index] for s, each in zip(shares, seen, strict=True))
        mean = sum(s * each[index].mean(0) for s, each in zip(shares, seen, strict=True))
        spread = sum(s * each[index].std(0) for s, each in zip(shares, seen, strict=True))
        factor = np.ones_like(mean) if kind == "reshift" else spread / own.std(0)
        kernel, bias = fused[index]
        shift = 0 if kind == "rescale" else mean - factor * own.mean(0)
        fused[index] = (kernel * factor, bias + shift)
    return fused


def least_squares(fused, parents, shares, x, ridge):
    """Fit every layer, with an intercept, to the mean of the parents' products."""
    fused = [(kernel.copy(), bias.copy()) for kernel, bias in fused]
    seen = [forward(parent, x)[1] for parent in parents]
    for index, (kernel, bias) in enumerate(fused):
        rows = forward(fused, x)[0][index]
        target = sum(s * each[index] for s, each in zip(shares, seen, strict=True))
        centred, wanted = rows - rows.mean(0), target - target.mean(0)
        strength = ridge * np.mean(np.sum(centred**2, axis=0))
        # Ridge regression as least squares of a longer system.
        stacked = np.vstack([centred, np.sqrt(strength) * np.eye(len(kernel))])
        goal = np.vstack([wanted, np.sqrt(strength) * kernel])
        fitted = np.linalg.lstsq(stacked, goal, rcond=None)[0]
        fused[index] = (fitted, bias + target.mean(0) - rows.mean(0) @ fitted)
    return fused
