# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Two networks into one
#
# Train the same network twice, from two seeds, and you get two networks that compute much the same
# features **in a different order**. Average their weights and you mix features that have nothing to
# do with each other. Put them in the same order first, and the average works.
#
# This notebook does that by hand on scikit-learn's 8x8 digits: train, average, align, fuse, measure
# the loss barrier, look at a matching, and at last align *inside* a jitted training loop. It needs
# no download and no GPU, and takes about half a minute on two CPU cores.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import jaxfuse
from jaxfuse import data, models, training

# Okabe and Ito's blue, vermilion and grey: told apart with any colour vision.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#707070"
plt.rcParams.update({"figure.dpi": 90, "figure.constrained_layout.use": True, "font.size": 10})

# %% [markdown]
# ## Two parents
#
# 1,437 digits to train on, 360 to test on.

# %%
digits = data.load("digits")
images, labels = (jnp.asarray(array) for array in digits.train())
test_images, test_labels = (jnp.asarray(array) for array in digits.test())
images.shape, test_images.shape

# %% [markdown]
# Two multilayer perceptrons 64-100-50-25-10. Nothing is shared but the data: the initial weights
# and the order of the batches come from different keys. (The weight decay makes the first layer
# forget its random start, so that there is something to see in the pictures below.) `functional`
# turns a Flax NNX module into a pure function `apply_fn(params, images)` and a dict of arrays.


# %%
def train_network(seed):
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    module = models.create(
        "mlp", input_shape=digits.input_shape, classes=digits.classes, width=0.25, key=init_key
    )
    config = training.TrainingConfig(epochs=40, learning_rate=0.1, weight_decay=3e-3)
    apply_fn, _ = models.functional(module)
    return apply_fn, training.train(module, images, labels, config, key=batch_key).params


apply_fn, params_a = train_network(seed=0)
_, params_b = train_network(seed=1)
jax.tree.map(jnp.shape, params_a)


# %%
def accuracy(params):
    return float(training.evaluate(apply_fn, params, test_images, test_labels).accuracy)


for name, params in {"network A": params_a, "network B": params_b}.items():
    print(f"{name:24s}{accuracy(params):7.1%}")

# %% [markdown]
# The **prediction ensemble**, the mean of their predicted probabilities, is what we would like to
# have in a single network: it costs two forward passes for every digit.

# %%
logits = jnp.stack([apply_fn(params, test_images) for params in (params_a, params_b)])
ensemble = jaxfuse.mean_probabilities(logits)
ensemble_accuracy = float(jnp.mean(jnp.argmax(ensemble, axis=-1) == test_labels))
print(f"{'prediction ensemble':24s}{ensemble_accuracy:7.1%}")

# %% [markdown]
# ## Average them: bad
#
# Unit 7 of A and unit 7 of B have only their number in common.

# %%
plain_average = jaxfuse.average([params_a, params_b])
print(f"{'plain average':24s}{accuracy(plain_average):7.1%}")

# %% [markdown]
# ## Align, then average: good
#
# `align_params` reads the **permutation symmetry** off the parameter tree, finds one permutation
# per hidden layer, and returns B in the order of A. It is a pure function of two pytrees, so
# `jax.jit` takes it as it is.

# %%
alignment = jax.jit(jaxfuse.align_params)(params_a, params_b)
print("status:", jaxfuse.Status(int(alignment.status)).name)
print("permutations:", {group: len(p) for group, p in alignment.permutations.items()})

# %% [markdown]
# The aligned B is the same function as B: only its hidden units have moved.

# %%
moved = apply_fn(alignment.params, test_images)
bool(jnp.allclose(moved, apply_fn(params_b, test_images), atol=1e-3))

# %% [markdown]
# `fuse` averages the aligned networks, and then gives every hidden unit the mean norm of its
# parents' incoming weights, because matched units agree only in part and their average is a little
# too weak. In a network as small as this one it hardly matters. (Without `alignment=` it does the
# matching itself.)

# %%
aligned_average = jaxfuse.average([params_a, alignment.params])
fused = jaxfuse.fuse([params_a, params_b], alignment=alignment)
results = {
    "network A": accuracy(params_a),
    "network B": accuracy(params_b),
    "prediction ensemble": ensemble_accuracy,
    "plain average": accuracy(plain_average),
    "aligned average": accuracy(aligned_average),
    "fused": accuracy(fused),
}
for name, value in results.items():
    print(f"{name:24s}{value:7.1%}")

# %% [markdown]
# ## The barrier
#
# Walk from A to B on a straight line in weight space. The rise of the loss on the way is the
# **barrier**: *linear*, over the straight line between the two end losses (Frankle et al., 2020),
# or *midpoint*, over their mean (Ainsworth et al., 2023). Two networks without a barrier are
# **linearly connected**: they lie in one basin.


# %%
def test_loss(params):
    return training.evaluate(apply_fn, params, test_images, test_labels).loss


before = jaxfuse.barrier(test_loss, params_a, params_b)
after = jaxfuse.barrier(test_loss, params_a, alignment.params)
for name, result in {"before alignment": before, "after alignment": after}.items():
    print(f"{name:18s}linear {result.linear:.3f} nats, midpoint {result.midpoint:.3f} nats")

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.4))
axes.plot(before.ts, before.losses, "o-", color=VERMILION, markersize=4, label="before alignment")
axes.plot(after.ts, after.losses, "s-", color=BLUE, markersize=4, label="after alignment")
axes.set_xlabel("position t on the line from A (t = 0) to B (t = 1)")
axes.set_ylabel("test cross entropy (nats)")
axes.set_title("The loss between two networks")
axes.set_ylim(bottom=0)
axes.grid(alpha=0.3)
axes.legend(loc="upper left", frameon=False)
plt.show()

# %% [markdown]
# ## Look at a matching
#
# The matcher saw weights and not one digit. So here is a test it could not prepare for: do matched
# units of the first hidden layer **respond to the same digits**? Correlate the activations of every
# unit of A with those of every unit of B over the test set, before and after reordering B.

# %%
pixels = test_images.reshape(len(test_images), -1)


def similarity(params_a, params_b):
    units = [
        jax.nn.relu(pixels @ params["dense"]["0"]["kernel"]) for params in (params_a, params_b)
    ]
    a, b = ((u - u.mean(axis=0)) / (u.std(axis=0) + 1e-6) for u in units)
    return a.T @ b / len(pixels)


before_matching = similarity(params_a, params_b)
after_matching = similarity(params_a, alignment.params)
print("median correlation of unit i of A with unit i of B:")
for name, matrix in {"before": before_matching, "after": after_matching}.items():
    print(f"{name:8s}{jnp.median(jnp.diag(matrix)):5.2f}")

# %% [markdown]
# Which unit comes first is ours to choose, so begin with the best matched one and look at fifty:
# entry (i, i) compares the two units with the same number, and a matching is a line on the
# diagonal. It fades downwards: not every unit of A has a true partner in B.

# %%
best_first = jnp.argsort(-jnp.diag(after_matching))[:50]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.4), sharey=True)
views = {
    "before: B in its own order": before_matching,
    "after: B in the order of A": after_matching,
}
for axes, (title, matrix) in zip(panels, views.items(), strict=True):
    picture = axes.imshow(
        matrix[best_first][:, best_first], cmap="PuOr", vmin=-1, vmax=1, interpolation="nearest"
    )
    axes.set(title=title, xlabel="unit of B")
panels[0].set_ylabel("unit of A, best matched first")
figure.colorbar(picture, ax=panels, label="correlation of activations", shrink=0.9)
plt.show()

# %% [markdown]
# And the weights themselves. A unit of the first layer looks at 64 pixels, so its weights are an
# 8x8 picture: the eight best matched units of A, and below each its partner in B. (Each weight is
# multiplied by the standard deviation of its pixel; pixels at the border never change.)

# %%
figure, panels = plt.subplots(2, 8, figsize=(7.2, 2.2))
spread = pixels.std(axis=0)[:, None]
for row, params in enumerate((params_a, alignment.params)):
    filters = np.asarray(spread * params["dense"]["0"]["kernel"])
    for column, unit in enumerate(best_first[:8].tolist()):
        axes, picture = panels[row, column], filters[:, unit].reshape(8, 8)
        limit = np.abs(picture).max()
        axes.imshow(picture, cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
    panels[row, 0].set_ylabel("AB"[row], rotation=0, ha="right", va="center", fontsize=13)
for column, unit in enumerate(best_first[:8].tolist()):
    panels[0, column].set_title(f"{after_matching[unit, unit]:.2f}", fontsize=9)
figure.suptitle("Matched first-layer units, and the correlation of their activations", fontsize=10)
plt.show()

# %% [markdown]
# ## Alignment inside a training loop
#
# An alignment is a compiled function of fixed shapes, so it can be a **step of training**. Take two
# clients, each with one half of the digits and a network of its own. Every `every` steps they meet,
# and both are pulled some of the way to their mean. If they meet seldom or pull gently, the mean
# has to make sense; so align first.

# %%
half = len(labels) // 2
client_images = images[: 2 * half].reshape(2, half, *digits.input_shape)
client_labels = labels[: 2 * half].reshape(2, half)
client_images.shape

# %% [markdown]
# Both networks live in one pytree whose leaves have a leading axis of two, so that `jax.vmap`
# trains them side by side. `nnx.split` separates a module into its structure and its arrays.


# %%
def stack(a, b):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), a, b)


def unstack(pair):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], pair) for i in range(2)]


def create_network(key):
    module = models.create("mlp", input_shape=digits.input_shape, classes=10, width=0.25, key=key)
    return nnx.split(module, nnx.Param)


def create_pair(key):
    return stack(*(create_network(k)[1] for k in jax.random.split(key)))


graphdef, params = create_network(jax.random.key(0))
symmetry = jaxfuse.infer_chain(params)
print("permutation groups:", symmetry.groups)

# %% [markdown]
# The meeting. B's **momentum** lives on B's units too, so it moves with them: `permute` applies the
# same permutations to any tree of that structure. One solver is enough here, and compiles in half
# the time of the default portfolio of two.


# %%
def meet(pair, momentum, strength, align):
    (a, b), (momentum_a, momentum_b) = unstack(pair), unstack(momentum)
    if align:
        alignment = jaxfuse.align_params(a, b, method=jaxfuse.FrankWolfe())
        b = alignment.params
        momentum_b = jaxfuse.permute(momentum_b, symmetry, alignment.permutations)
    mean = jaxfuse.average([a, b])
    pulled = [jaxfuse.interpolate(network, mean, strength) for network in (a, b)]
    return stack(*pulled), stack(momentum_a, momentum_b)


# %% [markdown]
# The loop is a `lax.scan` over the steps, with a `lax.cond` for the meetings: 400 steps and all
# their alignments in one call of one jitted function. After every step it measures the plain
# average of the two networks.

# %%
optimiser = optax.sgd(0.05, momentum=0.9)
clients = jnp.arange(2)[:, None]


def loss_fn(params, images, labels):
    logits = nnx.merge(graphdef, params)(images)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def test_accuracy(params):
    return jnp.mean(nnx.merge(graphdef, params)(test_images).argmax(axis=-1) == test_labels)


@functools.partial(jax.jit, static_argnames=("align", "steps"))
def train_pair(pair, key, every, strength, *, align, steps=400):
    def step(carry, index):
        pair, (trace, schedule) = carry
        rows = jax.random.randint(jax.random.fold_in(key, index), (2, 32), 0, half)
        batch = client_images[clients, rows], client_labels[clients, rows]
        gradients = jax.vmap(jax.grad(loss_fn))(pair, *batch)
        updates, (trace, schedule) = optimiser.update(gradients, (trace, schedule), pair)
        pair = optax.apply_updates(pair, updates)
        pair, momentum = jax.lax.cond(
            (index + 1) % every == 0,
            lambda pair, momentum: meet(pair, momentum, strength, align),
            lambda pair, momentum: (pair, momentum),
            pair,
            trace.trace,
        )
        accuracy_of_average = test_accuracy(jaxfuse.average(unstack(pair)))
        return (pair, (trace._replace(trace=momentum), schedule)), accuracy_of_average

    (pair, _), averages = jax.lax.scan(step, (pair, optimiser.init(pair)), jnp.arange(steps))
    return jax.vmap(test_accuracy)(pair), averages


# %% [markdown]
# They meet every 50 steps and move a tenth of the way to their mean: eight gentle meetings, with
# and without alignment, from the same start and with the same batches.

# %%
pair = create_pair(jax.random.key(0))
runs = {
    name: train_pair(pair, jax.random.key(1), 50, 0.1, align=align)
    for name, align in {"without alignment": False, "with alignment": True}.items()
}
for name, (networks, averages) in runs.items():
    print(f"{name:18s}networks {networks[0]:.1%} and {networks[1]:.1%}, average {averages[-1]:.1%}")

# %% [markdown]
# Until the first meeting the two runs are the same.

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.4))
for (name, (_, averages)), colour, style in zip(
    runs.items(), (VERMILION, BLUE), ("--", "-"), strict=True
):
    steps = jnp.arange(1, len(averages) + 1)
    axes.plot(steps, 100 * averages, style, color=colour, linewidth=1.6, label=name)
for meeting in range(50, 401, 50):
    label = "meeting" if meeting == 50 else None
    axes.axvline(meeting, color=GREY, linewidth=0.8, alpha=0.5, label=label)
axes.set(xlabel="step", ylabel="test accuracy of the average (%)", ylim=(0, 100))
axes.set_title("The plain average of two networks in training")
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# Does it always matter? No: pull hard and often, and two young networks grow together in any
# order. Alignment pays where meetings are rare or gentle. Below is the final accuracy of the
# average, as the mean of three starts. (`every` and `strength` are traced, so nothing is compiled
# again.)

# %%
keys = jax.random.split(jax.random.key(2), 3)
starts = [create_pair(key) for key in keys]


def mean_accuracy(every, strength, align):
    runs = [
        train_pair(*start, every, strength, align=align) for start in zip(starts, keys, strict=True)
    ]
    return np.mean([averages[-1] for _, averages in runs])


table = [f"{'meet every':12s}{'pull':>6s}{'plain':>9s}{'aligned':>9s}"]
for every, strength in ((10, 0.5), (50, 0.5), (50, 0.1), (200, 0.5)):
    plain, aligned = (mean_accuracy(every, strength, align) for align in (False, True))
    table.append(f"{every:5d} steps {strength:6.0%}{plain:9.1%}{aligned:9.1%}")
print("\n".join(table))

# %% [markdown]
# ## And your own networks?
#
# `align_params`, `fuse` and the rest take any pytree: Linen dicts, NNX states, Equinox modules,
# lists of arrays. Feed-forward chains (dense, convolution, normalisation) are read off the tree;
# for any other model pass `symmetry=jaxfuse.infer_symmetry(apply_fn, params, inputs)`, read off its
# program. How edges are compared (`affinity=`) and how the matching is found (`method=`) are
# small frozen dataclasses, for example `jaxfuse.Gaussian()` and `jaxfuse.CoordinateAscent()`.
