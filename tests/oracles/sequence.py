"""Attention, recurrent cells and mixtures of experts by loops in float64 NumPy."""

import numpy as np


def softmax(scores: np.ndarray) -> np.ndarray:
    """Exponentials of one vector, normalised."""
    values = np.exp(scores - scores.max())
    return values / values.sum()


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 1 / (1 + np.exp(-x))


def attention(q, k, v, *, bias=None, causal=False) -> np.ndarray:
    """Attention of every query by itself."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    result = np.zeros(q.shape)
    for b, t, h in np.ndindex(*q.shape[:3]):
        seen = t + 1 if causal else k.shape[1]
        scores = k[b, :seen, h] @ q[b, t, h] / np.sqrt(q.shape[-1])
        if bias is not None:
            scores = scores + np.asarray(bias, np.float64)[h, t, :seen]
        result[b, t, h] = softmax(scores) @ v[b, :seen, h]
    return result


def lstm(params: dict, x, *, reverse: bool) -> np.ndarray:
    """States of an LSTM with gates in the order input, forget, candidate, output."""
    mapped, kernel, bias = _recurrent(params, x)
    state = memory = np.zeros((len(mapped), kernel.shape[0]))
    states = np.zeros((*mapped.shape[:2], kernel.shape[0]))
    for t in _times(mapped.shape[1], reverse):
        write, keep, new, read = np.split(mapped[:, t] + state @ kernel + bias, 4, axis=1)
        memory = sigmoid(keep) * memory + sigmoid(write) * np.tanh(new)
        state = sigmoid(read) * np.tanh(memory)
        states[:, t] = state
    return states


def gru(params: dict, x, *, reverse: bool) -> np.ndarray:
    """States of a GRU with gates in the order reset, update, candidate."""
    mapped, kernel, bias = _recurrent(params, x)
    state = np.zeros((len(mapped), kernel.shape[0]))
    states = np.zeros((*mapped.shape[:2], kernel.shape[0]))
    for t in _times(mapped.shape[1], reverse):
        x_reset, x_update, x_new = np.split(mapped[:, t], 3, axis=1)
        h_reset, h_update, h_new = np.split(state @ kernel + bias, 3, axis=1)
        update = sigmoid(x_update + h_update)
        new = np.tanh(x_new + sigmoid(x_reset + h_reset) * h_new)
        state = update * state + (1 - update) * new
        states[:, t] = state
    return states


def mixture_of_experts(params: dict, x, top_k: int) -> np.ndarray:
    """Answers of the chosen experts, example by example."""
    router, up, down = (
        np.asarray(leaf, np.float64)
        for leaf in (params["router"]["kernel"], params["up"], params["down"])
    )
    result = []
    for example in np.asarray(x, np.float64):
        probabilities = softmax(example @ router)
        chosen = np.argsort(-probabilities)[:top_k]
        answers = [np.maximum(example @ up[e], 0) @ down[e] for e in chosen]
        gates = probabilities[chosen] / probabilities[chosen].sum()
        result.append(gates @ np.stack(answers))
    return np.stack(result)


def _recurrent(params: dict, x) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    inputs = params["input"]
    mapped = np.asarray(x, np.float64) @ np.asarray(inputs["kernel"], np.float64)
    mapped = mapped + np.asarray(inputs.get("bias", 0.0), np.float64)
    kernel, bias = (
        np.asarray(params["recurrent"][name], np.float64) for name in ("kernel", "bias")
    )
    return mapped, kernel, bias


def _times(steps: int, reverse: bool) -> range:
    return range(steps - 1, -1, -1) if reverse else range(steps)
