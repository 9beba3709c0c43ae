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
# # An ensemble in one network
#
# Two networks that vote are better than one, and cost twice as much. GAMF (Liu et al., ICML 2022)
# and OTFusion (Singh and Jaggi, NeurIPS 2020) ask for one network of the same size that is as good.
# Their first experiment is two networks on MNIST, mixed in every proportion, first with parents
# that saw the same data, then with one that alone knows a class.
#
# Here is that experiment on scikit-learn's digits, so that it runs in a minute on two CPU cores.
# `jaxfuse experiment compact-ensemble --table mnist --scale cpu` runs it on MNIST, with three
# seeds.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

import jaxfuse
from jaxfuse import data, models, training

COLOURS = {
    "plain average": "#707070",
    "OTFusion": "#E69F00",
    "Git Re-Basin": "#009E73",
    "GAMF": "#CC79A7",
    "jaxfuse, no data": "#56B4E9",
    "jaxfuse, images": "#0072B2",
}
plt.rcParams.update({"figure.dpi": 90, "figure.constrained_layout.use": True, "font.size": 9})

# %%
digits = data.load("digits")
images, labels = digits.train()
test_images, test_labels = (jnp.asarray(array) for array in digits.test())
unlabelled = jnp.asarray(images[:400])  # what a method may look at, without labels

# %% [markdown]
# ## Parents
#
# **Homogeneous**: both see all digits, from different seeds. **Heterogeneous**: A, the special one,
# has all nines and a tenth of the rest; B, the general one, has what is left, and has never seen a
# nine.


# %%
def train_network(share, seed):
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    module = models.create(
        "mlp", input_shape=digits.input_shape, classes=digits.classes, width=0.25, key=init_key
    )
    config = training.TrainingConfig(epochs=40, learning_rate=0.1, weight_decay=3e-3)
    apply_fn, _ = models.functional(module)
    return apply_fn, training.train(module, images[share], labels[share], config, key=batch_key)


splits = {
    "homogeneous": data.homogeneous(labels),
    "heterogeneous": data.personalised(labels, key=jax.random.key(0)),
}
parents = {}
for split, shares in splits.items():
    trained = [train_network(share, seed) for seed, share in enumerate(shares)]
    apply_fn = trained[0][0]
    parents[split] = [result.params for _, result in trained]


# %%
def accuracy(params):
    return float(training.evaluate(apply_fn, params, test_images, test_labels).accuracy)


def ensemble_accuracy(pair, t=0.5):
    predicted = [jax.nn.softmax(apply_fn(params, test_images)) for params in pair]
    mean = (1 - t) * predicted[0] + t * predicted[1]
    return float(jnp.mean(jnp.argmax(mean, axis=-1) == test_labels))


for split, pair in parents.items():
    a, b = map(accuracy, pair)
    print(f"{split:14s} A {a:.1%}  B {b:.1%}  prediction ensemble {ensemble_accuracy(pair):.1%}")

# %% [markdown]
# ## Align
#
# Every competitor puts the units of B in the order of those of A. OTFusion transports them layer by
# layer, Git Re-Basin ascends the sum of products of matched weights, GAMF cools soft matchings
# under a Gaussian affinity, and jaxfuse's default runs Frank-Wolfe, and graduated assignment where
# that is clearly better.

# %%
symmetry = jaxfuse.infer_symmetry(apply_fn, parents["homogeneous"][0], test_images[:2])
methods = {
    "OTFusion": {"method": "ot_fusion"},
    "Git Re-Basin": {"method": "coordinate_ascent"},
    "GAMF": {"method": "gamf", "affinity": "gaussian"},
    "jaxfuse": {"method": "portfolio"},
}
alignments = {
    split: {
        name: jaxfuse.align_params(*pair, symmetry=symmetry, **options)
        for name, options in methods.items()
    }
    for split, pair in parents.items()
}

# %% [markdown]
# How alike are units before and after? Each square below is the cosine between the incoming weights
# of one unit of A (row) and one of B (column), with the layer before it aligned too. After the
# matching, what is alike lies on the diagonal.


# %%
def cosines(a, b):
    unit = [kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True) for kernel in (a, b)]
    return unit[0].T @ unit[1]


a, b = parents["homogeneous"]
aligned = alignments["homogeneous"]["jaxfuse"].params
figure, panels = plt.subplots(2, 3, figsize=(8, 5.2))
diagonals = []
for line, (title, other) in zip(panels, {"before": b, "after": aligned}.items(), strict=True):
    for layer, panel in enumerate(line):
        kernel = ("dense", str(layer), "kernel")
        matrix = cosines(*(tree[kernel[0]][kernel[1]][kernel[2]] for tree in (a, other)))
        diagonals.append(float(jnp.mean(jnp.diag(matrix))))
        shown = panel.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        panel.set_title(f"layer {layer + 1}, {title}: mean {diagonals[-1]:.2f}", fontsize=9)
        panel.set(xlabel="unit of B", ylabel="unit of A")
figure.colorbar(shown, ax=panels, shrink=0.6, label="cosine of incoming weights")
plt.show()

# %% [markdown]
# ## The barrier
#
# The loss on the straight line from A to B. A network on it is an average in some proportion.


# %%
@jax.jit
def loss(params):
    return training.evaluate(apply_fn, params, test_images, test_labels).loss


figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
barriers = {}
for panel, (split, pair) in zip(panels, parents.items(), strict=True):
    paths = {"plain average": pair[1]}
    paths |= {name: each.params for name, each in alignments[split].items()}
    for name, other in paths.items():
        path = jaxfuse.barrier(loss, pair[0], other, 13)
        barriers[split, name] = float(path.linear)
        colour = COLOURS.get(name, COLOURS["jaxfuse, no data"])
        panel.plot(path.ts, path.losses, color=colour, label=name, linewidth=1.8)
    panel.set_title(split, loc="left", fontsize=9)
    panel.set(xlabel="share of B", xlim=(0, 1))
panels[0].set(ylabel="test loss, nats")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
plt.show()

# %% [markdown]
# ## Accuracy in every proportion
#
# GAMF's figure 3. The published methods stop at the average of the aligned networks. jaxfuse
# repairs it: every layer is fitted to what the same layer of the aligned parents computes, on 400
# unlabelled images. Where there is no data, the parents themselves make the images: `invert`
# descends from smooth noise to what both take for a class. These are what a zero, a one, ... is to
# the first two networks:

# %%
shape = jax.ShapeDtypeStruct((400, *digits.input_shape), jnp.float32)
inversions = {split: jaxfuse.invert(apply_fn, pair, shape) for split, pair in parents.items()}

figure, panels = plt.subplots(1, 10, figsize=(8, 1.1))
for panel, image in zip(panels, inversions["homogeneous"], strict=False):
    panel.imshow(image[..., 0], cmap="gray")
    panel.axis("off")
plt.show()

# %%
ts = np.linspace(0, 1, 11)


def curve(split, name, **repair):
    pair, alignment = parents[split], alignments[split][name]
    fused = (
        jaxfuse.fuse(pair, (1 - t, t), alignment, symmetry=symmetry, apply_fn=apply_fn, **repair)
        for t in ts
    )
    return [accuracy(params) for params in fused]


curves = {}
for split, pair in parents.items():
    curves[split] = {
        "plain average": [accuracy(jaxfuse.interpolate(*pair, float(t))) for t in ts],
        **{name: curve(split, name, repair=None) for name in ("OTFusion", "Git Re-Basin", "GAMF")},
        "jaxfuse, no data": curve(split, "jaxfuse", inputs=inversions[split]),
        "jaxfuse, images": curve(split, "jaxfuse", inputs=unlabelled),
        "prediction ensemble": [ensemble_accuracy(pair, t) for t in ts],
    }

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 3.6))
for panel, (split, lines) in zip(panels, curves.items(), strict=True):
    for name, values in lines.items():
        style = {"color": COLOURS.get(name, "black"), "linestyle": "-" if name in COLOURS else ":"}
        panel.plot(ts, 100 * np.array(values), label=name, linewidth=1.8, **style)
    panel.set_title(split, loc="left", fontsize=9)
    panel.set(xlabel="share of B", ylabel="test accuracy, %", xlim=(0, 1))
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %%
middle = len(ts) // 2
at_half = {
    split: {name: values[middle] for name, values in lines.items()}
    for split, lines in curves.items()
}
for name in at_half["homogeneous"]:
    print(f"{name:22s}" + "".join(f"{at_half[split][name]:>16.1%}" for split in curves))

# %% [markdown]
# ## Which similarity tells?
#
# GAMF's figure 4: shuffle a part of a matching, and compare what it is worth with its similarity,
# of first order (products of matched weights) and of second order (a Gaussian of their distances).


# %%
def shuffled(order, share, generator):
    order = np.array(order)
    places = generator.permutation(len(order))[: max(2, round(share * len(order)))]
    order[places] = order[np.roll(places, 1)]
    return jnp.asarray(order)


found = alignments["homogeneous"]["jaxfuse"].permutations
similarities = {"first order": jaxfuse.Linear(), "second order": jaxfuse.Gaussian()}
problems = {
    name: jaxfuse.build_problem(a, b, symmetry, affinity) for name, affinity in similarities.items()
}
generator = np.random.default_rng(0)
points = []
for share in np.repeat([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0], 6):
    orders = {group: shuffled(order, share, generator) for group, order in found.items()}
    fused = jaxfuse.average([a, jaxfuse.permute(b, symmetry, orders)])
    points.append([*(float(p.objective_at(orders)) for p in problems.values()), accuracy(fused)])
points = np.array(points)

figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
correlations = {}
for index, (panel, name) in enumerate(zip(panels, problems, strict=True)):
    correlations[name] = float(stats.spearmanr(points[:, index], points[:, 2]).statistic)
    panel.scatter(points[:, index], 100 * points[:, 2], color="#0072B2", s=16)
    panel.set_title(f"Spearman correlation {correlations[name]:.2f}", loc="left", fontsize=9)
    panel.set(xlabel=f"similarity, {name}")
    panel.locator_params(axis="x", nbins=5)
panels[0].set(ylabel="accuracy of the average, %")
plt.show()

# %% [markdown]
# Both orders rank matchings of very different quality. Neither says much of two that are both good:
# `benchmarks/compact_ensemble/README.md` has the numbers, and the other experiments.
