"""Align two networks: one call from two parameter trees to one in the order of the other."""

from typing import Any, NamedTuple

import jax

from jaxfuse.affinity import Affinity
from jaxfuse.align.search import move, prepare, search
from jaxfuse.matching.problem import Backend
from jaxfuse.methods import AnyMethod
from jaxfuse.networks import ApplyFunction
from jaxfuse.symmetry import Symmetry
from jaxfuse.transport.maps import Maps

PyTree = Any
_UNKNOWN = float("nan")


class Alignment(NamedTuple):
    """Network B in the order of network A.

    Attributes:
        params: the parameters of B with their units reordered: same structure, shapes and dtypes.
            With a method of linear maps, B in the space of A and at its widths.
        permutations: per group int32 `[n]`; unit i of A corresponds to unit `permutation[i]` of B.
            A group that something indexes has one for each of its entries, `[..., n]`, of shape
            `symmetry.shape(group)`, as `jaxfuse.permute` takes them. Empty for linear maps.
        objective: the similarity that the matching reaches, float32.
        status: int32, a `jaxfuse.Status`.
        trace: float32 `[steps]`, the objective of the (soft) matching along the way.
        seconds: wall time of the search, with its compilation in a first call; NaN under jit.
        maps: the linear maps of both networks into the common space, where the method finds such.
    """

    params: PyTree
    permutations: dict[str, jax.Array]
    objective: jax.Array
    status: jax.Array
    trace: jax.Array
    seconds: float | jax.Array = _UNKNOWN
    maps: Maps | None = None


def align_params(
    params_a: PyTree,
    params_b: PyTree,
    *,
    method: AnyMethod | str = "portfolio",
    symmetry: Symmetry | tuple[Symmetry, Symmetry] | None = None,
    affinity: Affinity | str = "linear",
    apply_fn: ApplyFunction | None = None,
    inputs: PyTree = None,
    targets: Any = None,
    activation_weight: float = 3.0,
    backend: Backend = "auto",
    key: jax.Array | None = None,
) -> Alignment:
    """Reorder the units of network B to match those of network A.

    B computes the same function afterwards, provided that the symmetry is the network's own: one
    that is traced from the function is, one that is read off the tree is if the network is the
    chain it looks like, and `jaxfuse.verify` proves either. The call works as it is, under
    `jax.jit`, `jax.vmap` (over either argument or both) and inside `jax.lax.scan`, with the same
    answer; outside jit it compiles once per model and looks at the values. Under `jit` settings are
    passed as instances (`method=jaxfuse.FrankWolfe()`), which are static, and names and functions
    by `functools.partial`. A tree with leaves that are no arrays, such as an Equinox module, needs
    `eqx.filter_jit` there.

    Where B is not needed afterwards, `jax.jit(align_params, donate_argnums=1)` gives its buffers to
    the aligned parameters. The memory that the call itself needs hardly changes, as units are not
    reordered in place.

    Args:
        params_a: the reference: a Linen dict, an NNX state, an Equinox module, nested dicts or
            lists of arrays.
        params_b: the network to reorder, of the same structure and shapes. Leaves that are no
            arrays of real numbers are carried along. Methods for different widths take other
            shapes.
        method: how the units are matched: a name of `jaxfuse.methods.METHODS`, or an instance with
            its own settings. "portfolio" measures best: Frank-Wolfe, and graduated assignment where
            that is clearly better.
        symmetry: which axes must be permuted together; by default traced from `apply_fn`, or, where
            there is none, read off the tree of a feed-forward chain (`jaxfuse.infer_chain`). Two
            for networks of different widths.
        affinity: how edges are compared: "linear" (measured best on real pairs), "normalised"
            (every tensor over its spread), "gaussian", "exact_gaussian", or an instance with its
            own settings. For methods that match weights.
        apply_fn: `apply_fn(params, *inputs)`, the function of the networks.
        inputs: a batch of about 100 unlabelled examples or more, or a tuple of the arguments that
            follow the parameters. Methods that match weights then match activations with them.
        targets: labels of the batch, for methods that train on a task loss and use them.
        activation_weight: how much activations count against weights; 0 leaves them out.
        backend: who solves assignments, as in `jaxfuse.hungarian`: "auto" is SciPy on the host,
            "jax" stays on the device, for `jax.export` and programs without callbacks.
        key: source of randomness, for methods that use it.

    Returns:
        An `Alignment`. Its status is ALREADY_ALIGNED where no matching beats the order they have,
        and NON_FINITE, with B as it was, where a weight is NaN or infinite.

    Raises:
        ValueError: for trees or shapes that do not fit each other or the symmetry, and for a method
            that needs data without any; outside jit also for weights that are NaN or infinite.

    The permutations are not differentiable; gradients flow to B through the reordering.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> params_a = [jax.random.normal(k1, (4, 8)), jax.random.normal(k2, (8, 3))]
        >>> order = jnp.array([3, 1, 4, 7, 5, 2, 6, 0])
        >>> params_b = [params_a[0][:, order], params_a[1][order]]
        >>> alignment = jax.jit(align_params)(params_a, params_b)
        >>> bool(jnp.allclose(alignment.params[0], params_a[0]))
        True
    """
    networks, method = prepare(
        (params_a, params_b),
        ("params_a", "params_b"),
        method=method,
        symmetry=symmetry,
        apply_fn=apply_fn,
        inputs=inputs,
        targets=targets,
    )
    found = search(networks, method, affinity, activation_weight, backend, key)
    params = move(params_b, networks.symmetries[1], 1, found.permutations, found.maps)
    permutations = {group: orders[1] for group, orders in found.permutations.items()}
    return Alignment(params, permutations, *found[2:6], found.maps)
