"""One Gaussian block: the scores of a convolution by short features and by the exact stream."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity import ExactGaussian, Gaussian
from jaxfuse.affinity.bandwidth import squared_bandwidth
from jaxfuse.bench.ceilings import Work
from jaxfuse.bench.contest import Absent, Case, Contestant, Program

TAPS = 9
BANDWIDTH = 2.0
RANK = 64
_JUDGED = 32
_SHORT = Gaussian(bandwidth=BANDWIDTH, rank=RANK)


def cases(quick: bool) -> list[Case]:
    """Return blocks of d by d channels of 3x3 convolutions."""
    channels = (16, 32) if quick else (16, 32, 64, 128, 256, 512)
    return [*(case(d) for d in channels), *(features_case(d) for d in channels)]


def case(channels: int) -> Case:
    """Return the scores of one layer, of which an alignment takes many."""
    enter = functools.partial(_enter_scores, channels)
    return Case(f"gaussian block/d={channels}", enter, "channels", channels)


def features_case(channels: int) -> Case:
    """Return the features of one layer, which an alignment makes once."""
    enter = functools.partial(_enter_features, channels)
    predicted = {"seconds": 2.0, "program": 2.0}
    return Case(f"gaussian features/d={channels}", enter, "channels", channels, predicted)


def edges_of(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges `[d, d, 9]` of a convolution of two networks, always the same.

    Trained 3x3 kernels have heavy tails, and entries like those of their neighbours: Student's t
    of four degrees of freedom, mixed so that the correlation falls by exp(-1/2) a pixel.
    """
    where = np.stack(np.meshgrid(range(3), range(3)), axis=-1).reshape(TAPS, 2)
    apart = np.linalg.norm(where[:, None] - where[None], axis=-1)
    mix = np.linalg.cholesky(np.exp(-apart / 2))
    draws = np.random.default_rng(channels).standard_t(4, (2, channels, channels, TAPS))
    a, b = (draws @ mix.T / np.sqrt(TAPS * channels)).astype(np.float32)
    return a, b


def scores(block: Any, p: jax.Array, q: jax.Array) -> jax.Array:
    """Return dJ/dP of a block."""
    return jax.grad(lambda soft: block.value(soft, q))(p)


def scores_program(block: Any) -> Program:
    """Return the scores of a block at the uniform matchings as a compiled program."""
    n = len(block.a)
    uniform = jnp.full((n, n), 1.0 / n)
    return Program(scores, block, uniform, uniform)


def _enter_scores(channels: int) -> list[Contestant | Absent]:
    edges = jax.device_put(edges_of(channels))
    judge = _judge(reference(*edges_of(channels)))
    d = float(channels)
    # Two pairs of products, whose first axis is as long as the features of all units.
    short = Contestant(
        f"jaxfuse, rank {RANK}",
        scores_program(_SHORT.block(*edges)),
        judge,
        Work(flops=4 * RANK * d**3),
        predicted={"seconds": 3.0, "program": 2.0},
    )
    exact = Contestant(
        "jaxfuse, exact stream",
        scores_program(ExactGaussian(bandwidth=BANDWIDTH).block(*edges)),
        judge,
        Work(flops=(3 * TAPS + 2) * d**4, exps=d**4),
        predicted={"seconds": 4.0},
    )
    return [short, exact]


def _enter_features(channels: int) -> list[Contestant | Absent]:
    judge = _judge(reference(*edges_of(channels)))
    edges = float(channels) ** 2
    # Of every edge and landmark the distance, its exp and a product with the root.
    work = Work(flops=4 * edges * RANK * (TAPS + RANK), exps=2 * RANK * edges)
    build = Program(_SHORT.block, *jax.device_put(edges_of(channels)))

    def judge_block(block: Any) -> dict[str, float]:
        return judge(scores_program(block)())

    return [Contestant(f"jaxfuse, rank {RANK}", build, judge_block, work)]


def _judge(right: np.ndarray) -> Callable[[Any], dict[str, float]]:
    """Return the relative error of scores whose rows and columns are centred.

    A constant added to a row or a column changes no assignment. Of more than 32 units, those
    between 32 even ones of each network are judged.
    """

    def judge(found: Any) -> dict[str, float]:
        chosen = judged(len(found))
        off = centred(np.asarray(found, np.float64)[np.ix_(chosen, chosen)]) - centred(right)
        return {"error": float(np.linalg.norm(off) / np.linalg.norm(centred(right)))}

    return judge


def centred(matrix: np.ndarray) -> np.ndarray:
    """Subtract the means of rows and of columns."""
    rows, columns = matrix.mean(axis=1, keepdims=True), matrix.mean(axis=0, keepdims=True)
    return matrix - rows - columns + matrix.mean()


def judged(units: int) -> np.ndarray:
    """Return the units whose scores are judged."""
    return np.linspace(0, units - 1, min(units, _JUDGED)).astype(int)


def reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the judged scores in float64, at the bandwidth that both affinities take."""
    sigma = float(squared_bandwidth((jnp.asarray(a), jnp.asarray(b)), BANDWIDTH))
    chosen = judged(len(a))
    rows, others = (edges[chosen].astype(np.float64) for edges in (a, b))
    others = others.reshape(-1, TAPS)
    squares = np.square(others).sum(axis=1)
    scores = []
    for row in rows:
        distances = np.square(row).sum(axis=1)[:, None] + squares[None] - 2 * row @ others.T
        kernel = np.exp(-distances / sigma).reshape(len(row), len(chosen), -1)
        scores.append(kernel.sum(axis=(0, 2)) / len(row))
    return np.stack(scores)
