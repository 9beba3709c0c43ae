"""Mixtures of experts: the experts move with their router, however they are combined."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.symmetry.trace.cases import Case, check, table

silu = jax.nn.silu


def experts(p, x):
    """Return the answers of all experts, `[examples, experts, outputs]`."""
    h = silu(jnp.einsum("nd,edf->enf", x, p["u"]))
    return jnp.einsum("enf,efo->neo", h, p["d"])


def mixture(combine):
    def network(p, x):
        gates = jax.nn.softmax(x @ p["r"])
        return combine(p, x, gates, *lax.top_k(gates, 2))

    return network


def combine_by_one_hot(p, x, gates, best, chosen):
    weights = (jax.nn.one_hot(chosen, gates.shape[-1]) * best[..., None]).sum(1)
    return jnp.einsum("ne,neo->no", weights, experts(p, x))


def combine_by_scatter(p, x, gates, best, chosen):
    weights = jnp.zeros_like(gates).at[jnp.arange(len(x))[:, None], chosen].set(best)
    return jnp.einsum("ne,neo->no", weights, experts(p, x))


def combine_by_threshold(p, x, gates, best, chosen):
    weights = jnp.where(gates >= best[:, -1:], gates, 0.0)
    return jnp.einsum("ne,neo->no", weights, experts(p, x))


def combine_by_gather(p, x, gates, best, chosen):
    h = silu(jnp.einsum("nd,nkdf->nkf", x, p["u"][chosen]))
    return jnp.einsum("nkf,nkfo,nk->no", h, p["d"][chosen], best)


def combine_of_one(p, x, gates, best, chosen):
    one = chosen[:, 0]
    h = silu(jnp.einsum("nd,ndf->nf", x, p["u"][one]))
    return jnp.einsum("nf,nfo->no", h, p["d"][one]) * best[:, :1]


def combine_all(p, x, gates, best, chosen):
    answers = jax.vmap(lambda u, d: silu(x @ u) @ d)(p["u"], p["d"])
    return jnp.einsum("ne,eno->no", gates, answers)


def combine_by_dispatch(p, x, gates, best, chosen):
    seats = jax.nn.one_hot(chosen, gates.shape[-1]).sum(1)
    h = silu(jnp.einsum("end,edf->enf", jnp.einsum("ne,nd->end", seats, x), p["u"]))
    return jnp.einsum("eno,ne->no", jnp.einsum("enf,efo->eno", h, p["d"]), gates * seats)


def combine_with_capacity(p, x, gates, best, chosen):
    seats = jax.nn.one_hot(jnp.argmax(gates, -1), gates.shape[-1])
    order = (jnp.cumsum(seats, 0) * seats - 1).astype(int)
    dispatch = jax.nn.one_hot(order, 3) * seats[..., None]
    h = silu(jnp.einsum("ecd,edf->ecf", jnp.einsum("nec,nd->ecd", dispatch, x), p["u"]))
    answers = jnp.einsum("ecf,efo->eco", h, p["d"])
    return jnp.einsum("eco,nec->no", answers, dispatch * gates[..., None])


def combine_of_loop(p, x, gates, best, chosen):
    return sum(
        gates[:, e : e + 1] * (silu(x @ p["u"][e]) @ p["d"][e]) for e in range(gates.shape[-1])
    )


EXPERTS = {"r": (5, 3), "u": (3, 5, 4), "d": (3, 4, 2)}
ROUTED = {"r.blocks": 3, "u": 4}
PER_EXPERT = {"u": ("r.blocks",)}


def routed(name, combine, groups=None, over=()):
    return Case(name, mixture(combine), EXPERTS, ((6, 5),), groups, dict(over))


EXPERT_CASES = (
    routed("one-hot", combine_by_one_hot, ROUTED, PER_EXPERT),
    routed("threshold", combine_by_threshold, ROUTED, PER_EXPERT),
    routed("all", combine_all, ROUTED, PER_EXPERT),
    routed("dispatch", combine_by_dispatch, ROUTED, PER_EXPERT),
    routed("capacity", combine_with_capacity, ROUTED, PER_EXPERT),
    routed("scatter", combine_by_scatter),
    routed("gather", combine_by_gather),
    routed("one-of-two", combine_of_one),
    routed("loop", combine_of_loop),
)


@pytest.mark.parametrize(**table(*EXPERT_CASES))
def test_mixtures_of_experts(case):
    symmetry = check(case)
    assert 4 in symmetry.groups.values()  # the units of the experts, whatever the router does
