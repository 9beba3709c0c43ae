"""What units do and how alike they are, in float64 NumPy and scikit-learn."""

import numpy as np
from scipy.stats import norm
from sklearn.metrics import mutual_info_score


def relu_network(params, x):
    """Return the pre-activations and the inputs of every layer of a ReLU chain.

    The parameters are `w0, b0, w1, b1, ...`; the last layer has no ReLU.
    """
    before, taken = [], []
    depth = sum(name.startswith("w") for name in params)
    x = np.asarray(x, np.float64)
    for layer in range(depth):
        taken.append(x)
        before.append(x @ np.float64(params[f"w{layer}"]))
        x = np.maximum(before[-1] + np.float64(params.get(f"b{layer}", 0.0)), 0)
    return before, taken


def similarity(kind, a, b):
    """Return the similarity `[n, m]` of the columns of two arrays `[samples, n]`, one by one."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    result = np.zeros((a.shape[1], b.shape[1]))
    for i, x in enumerate(a.T):
        for j, y in enumerate(b.T):
            if kind == "l2":
                result[i, j] = -np.mean((x - y) ** 2)
            elif kind == "transport":
                result[i, j] = -np.linalg.norm(x - y) / np.sqrt(len(x))
            elif kind == "covariance":
                result[i, j] = np.mean((x - x.mean()) * (y - y.mean()))
            elif x.std() and y.std():
                result[i, j] = np.corrcoef(x, y)[0, 1]
    return result


def mutual_information(a, b, bins):
    """Return the mutual information `[n, m]` in bits, cut at normal quantiles of every column."""
    edges = norm.ppf(np.arange(1, bins) / bins)

    def codes(x):
        spread = x.std()
        return np.digitize((x - x.mean()) / spread if spread else 0 * x, edges, right=True)

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scores = [[mutual_info_score(codes(x), codes(y)) for y in b.T] for x in a.T]
    return np.array(scores) / np.log(2)
