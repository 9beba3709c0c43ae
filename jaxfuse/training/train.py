"""The training loop."""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxfuse.models.functional import Params, TrainingFunction, functional, training_function
from jaxfuse.training.augment import shift_and_mirror
from jaxfuse.training.checkpoint import Checkpoints, fingerprint
from jaxfuse.training.config import TrainingConfig
from jaxfuse.training.metrics import check_examples

Progress = Callable[[int, int, float], None]
"""Called with `(steps done, steps in all, mean loss since the last call)`."""

_CHUNK_STEPS = 200


class History(NamedTuple):
    """What happened during training.

    Attributes:
        loss: Mean training cross entropy of every epoch, `[epochs]` float32.
    """

    loss: jax.Array


class TrainingResult(NamedTuple):
    """A trained network.

    Attributes:
        params: Nested dict of arrays, as `jaxfuse.models.functional` returns it.
        history: What happened during training.
    """

    params: Params
    history: History


class _State(NamedTuple):
    weights: Params
    statistics: Params
    optimiser: optax.OptState
    loss_sums: jax.Array
    step: jax.Array


class _Plan(NamedTuple):
    """What a compiled step depends on besides arrays."""

    forward: TrainingFunction
    config: TrainingConfig
    steps_per_epoch: int
    batch_size: int


def train(
    module: nnx.Module,
    images: jax.Array | np.ndarray,
    labels: jax.Array | np.ndarray,
    config: TrainingConfig | None = None,
    *,
    key: jax.Array,
    params: Params | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a classifier by stochastic gradient descent on the cross entropy.

    The data lie on the device, and a chunk of steps is one compiled loop. Modules of one structure
    share the compiled program. Given a checkpoint folder, the run continues from the newest
    checkpoint in it, and the result is the same to the last bit as that of a run that was never
    stopped (on CPU and TPU; on GPU, as far as XLA's kernels are deterministic).

    Args:
        module: Flax NNX module `images -> logits`. It is left as it is.
        images: `[n, ...]` float32 inputs, normalised.
        labels: `[n]` integer labels.
        config: How to train. Default: `TrainingConfig()`.
        key: Key of the order of the examples and of the augmentation.
        params: Parameters to start from, as `functional` returns them. Default: the module's.
        checkpoint_dir: Folder for the checkpoints of this run alone. Default: none are written.
        checkpoint_every: Steps between two checkpoints. Default: one epoch. The end of the run is
            checkpointed too.
        progress: Called every 200 steps and at the end of every epoch with
            `(steps done, steps in all, mean loss since the last call)`. What it raises ends the
            run.

    Returns:
        The trained parameters and the history.

    Raises:
        ValueError: Images and labels do not fit each other, the module has dropout,
            `checkpoint_every` is not positive, or the checkpoint folder belongs to another run.
        FloatingPointError: The loss is not finite any more.

    Examples:
        >>> from jaxfuse.data import load_digits
        >>> from jaxfuse.models import create
        >>> digits = load_digits()
        >>> model = create("mlp", input_shape=(8, 8, 1), classes=10, width=0.1,
        ...                key=jax.random.key(0))
        >>> result = train(model, *digits.train(), TrainingConfig(epochs=2), key=jax.random.key(1))
        >>> result.history.loss.shape
        (2,)
        >>> bool(result.history.loss[1] < result.history.loss[0])
        True
    """
    check_examples(images, labels)
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be 1 step or more, got {checkpoint_every}")
    config = TrainingConfig() if config is None else config
    batch_size = min(config.batch_size, len(labels))
    plan = _Plan(training_function(module), config, len(labels) // batch_size, batch_size)
    # Every chunk donates its state: the caller's arrays must not be among it.
    start = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params or functional(module)[1])
    state = _initial_state(plan, start)
    if checkpoint_dir is None:
        state = _run(plan, state, jnp.asarray(images), jnp.asarray(labels), key, progress)
    else:
        identity = fingerprint(repr(config), (key, start, images, labels))
        every = plan.steps_per_epoch if checkpoint_every is None else checkpoint_every
        with Checkpoints(checkpoint_dir, identity=identity) as checkpoints:
            restored = checkpoints.restore(state)
            state = state if restored is None else restored[1]

            def save(state: _State) -> None:
                checkpoints.save(int(state.step), state)

            state = _run(
                plan, state, jnp.asarray(images), jnp.asarray(labels), key, progress, save, every
            )
    return TrainingResult(
        plan.forward.merge(state.weights, state.statistics),
        History(state.loss_sums / plan.steps_per_epoch),
    )


def _initial_state(plan: _Plan, params: Params) -> _State:
    weights, statistics = plan.forward.split(params)
    optimiser = plan.config.optimiser(plan.steps_per_epoch).init(weights)
    return _State(weights, statistics, optimiser, jnp.zeros(plan.config.epochs), jnp.int32(0))


def _run(
    plan: _Plan,
    state: _State,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    progress: Progress | None,
    save: Callable[[_State], None] | None = None,
    save_every: int = 0,
) -> _State:
    total = plan.config.epochs * plan.steps_per_epoch
    step = int(state.step)
    advance = _compiled_chunk if _loops_compile_well(state.weights) else _stepwise_chunk
    while step < total:
        epoch = step // plan.steps_per_epoch
        stop = min(step + _CHUNK_STEPS, (epoch + 1) * plan.steps_per_epoch)
        if save is not None:
            stop = min(stop, (step // save_every + 1) * save_every)
        order = _order(plan, key, epoch, len(labels))
        state, loss = advance(plan, state, order, images, labels, key, stop)
        mean_loss = float(loss) / (stop - step)
        step = stop
        if not np.isfinite(mean_loss):
            raise FloatingPointError(
                f"the training loss became {mean_loss} by step {step} of {total}: lower "
                "learning_rate, raise warmup_epochs or add a norm to the model"
            )
        if save is not None and (step % save_every == 0 or step == total):
            save(state)
        if progress is not None:
            progress(step, total, mean_loss)
    return state


def _loops_compile_well(weights: Params) -> bool:
    # XLA's CPU backend runs a convolution inside a loop two to three times slower than outside.
    has_convolution = any(leaf.ndim > 2 for leaf in jax.tree.leaves(weights))
    return not (has_convolution and jax.default_backend() == "cpu")


@functools.partial(jax.jit, static_argnames=("plan", "count"))
def _order(plan: _Plan, key: jax.Array, epoch: jax.Array, count: int) -> jax.Array:
    """Draw the order of one epoch, `[steps_per_epoch, batch_size]` indices."""
    order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, 0), epoch), count)
    used = plan.steps_per_epoch * plan.batch_size
    return order[:used].reshape(plan.steps_per_epoch, plan.batch_size)


def _step(
    plan: _Plan,
    state: _State,
    order: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[_State, jax.Array]:
    """Do one step of gradient descent; return the new state and the loss."""
    indices = order[state.step % plan.steps_per_epoch]
    batch = images[indices]
    if plan.config.augment:
        augment_key = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
        batch = shift_and_mirror(batch, key=augment_key)

    def loss_fn(weights: Params) -> tuple[jax.Array, Params]:
        params = plan.forward.merge(weights, state.statistics)
        logits, params = plan.forward(params, batch)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[indices])
        return jnp.mean(losses), plan.forward.split(params)[1]

    (loss, statistics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.weights)
    optimiser = plan.config.optimiser(plan.steps_per_epoch)
    updates, optimiser_state = optimiser.update(gradients, state.optimiser, state.weights)
    weights = cast(Params, optax.apply_updates(state.weights, updates))
    loss_sums = state.loss_sums.at[state.step // plan.steps_per_epoch].add(loss)
    return _State(weights, statistics, optimiser_state, loss_sums, state.step + 1), loss


_compiled_step = jax.jit(_step, static_argnames="plan", donate_argnames="state")


def _stepwise_chunk(
    plan: _Plan,
    state: _State,
    order: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    stop: int,
) -> tuple[_State, jax.Array]:
    losses = []
    for _ in range(int(state.step), stop):
        state, loss = _compiled_step(plan, state, order, images, labels, key)
        losses.append(loss)
    return state, sum(losses, start=jnp.float32(0))


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="state")
def _compiled_chunk(
    plan: _Plan,
    state: _State,
    order: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    stop: jax.Array,
) -> tuple[_State, jax.Array]:
    # The bounds are traced, so one program serves chunks of all lengths.
    def body(_: jax.Array, carry: tuple[_State, jax.Array]) -> tuple[_State, jax.Array]:
        state, total = carry
        state, loss = _step(plan, state, order, images, labels, key)
        return state, total + loss

    return jax.lax.fori_loop(state.step, stop, body, (state, jnp.float32(0)))
