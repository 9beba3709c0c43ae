"""Recipes make what they say, by plain NumPy."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxfuse import fuse, invert
from jaxfuse.experiments.family import Family, Nursery
from jaxfuse.experiments.recipes import RECIPES, VARIANTS, fuse_parents
from jaxfuse.experiments.scores import accuracy, accuracy_of_classes, ensemble_accuracy
from jaxfuse.training import TrainingConfig

FAMILY = Family(
    name="three",
    dataset="digits",
    model="mlp",
    widths=(0.02,) * 3,
    split="dirichlet",
    training=TrainingConfig(epochs=3, learning_rate=0.1),
)


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    return Nursery(tmp_path_factory.mktemp("cache")).parents(FAMILY, 0)


def assert_alike(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_plain_average_is_the_weighted_mean(parents):
    made = fuse_parents(RECIPES["plain"], parents, images=40, noise=40).make
    assert_alike(
        made("average", (1, 1, 2)),
        jax.tree.map(lambda a, b, c: (a + b + 2 * c) / 4, *parents.params),
    )


def test_every_variant_is_another_network(parents):
    made = fuse_parents(RECIPES["git_rebasin"], parents, images=40, noise=40).make
    heads = [np.asarray(made(each, None)["dense"]["1"]["kernel"]) for each in VARIANTS]
    for index, head in enumerate(heads):
        assert all(not np.allclose(head, other) for other in heads[:index])


def test_otfusion_is_that_of_the_library(parents):
    pair = parents._replace(
        params=parents.params[:2],
        symmetries=parents.symmetries[:2],
        apply_fns=parents.apply_fns[:2],
        shares=parents.shares[:2],
    )
    found = fuse_parents(RECIPES["ot_weights"], pair, images=40, noise=40).make("average", None)
    assert_alike(found, fuse(pair.params, method="ot_fusion", repair=None))


def test_without_data_the_parents_are_inverted(parents):
    shape = jax.ShapeDtypeStruct((30, *parents.images.shape[1:]), np.float32)
    made = invert(parents.apply_fn, parents.params, shape)
    recipe = dataclasses.replace(RECIPES["git_rebasin"], inverted=True, own="inverted")
    fused = fuse_parents(recipe, parents, images=30, noise=40)
    options = {"apply_fn": parents.apply_fn, "symmetry": parents.symmetries[0]}
    options |= {"method": recipe.many, "key": jax.random.key(0)}
    found = fuse(parents.params, inputs=made, **options)
    assert_alike(fused.make("inverted", None), found)
    given = fuse_parents(recipe, parents, images=30, noise=40, inversions=made)
    assert_alike(given.make("inverted", None), found)


def test_shares_by_class_weigh_each_column_of_the_head(parents):
    recipe = dataclasses.replace(RECIPES["plain"], by_class=True)
    found = fuse_parents(recipe, parents, images=40, noise=40).make("average", None)["dense"]
    even = jax.tree.map(lambda *trees: sum(trees) / 3, *parents.params)["dense"]
    assert_alike([found[layer] for layer in "012"], [even[layer] for layer in "012"])
    counts = np.array(
        [[np.sum(parents.labels[share] == c) for c in range(10)] for share in parents.shares]
    )
    kernels = np.stack([np.asarray(tree["dense"]["3"]["kernel"]) for tree in parents.params])
    expected = np.einsum("kc,kic->ic", counts / counts.sum(axis=0), kernels)
    np.testing.assert_allclose(found["3"]["kernel"], expected, atol=1e-6)


def test_shares_by_class_do_not_change_the_alignment(parents):
    recipe = dataclasses.replace(RECIPES["git_rebasin"], by_class=True)
    made = [
        fuse_parents(each, parents, images=40, noise=40).make("average", None)["dense"]["0"]
        for each in (recipe, RECIPES["git_rebasin"])
    ]
    assert_alike(*made)


def test_accuracies_are_shares_of_right_images(parents):
    logits = np.asarray(parents.apply_fn(parents.params[1], parents.test_images))
    right = logits.argmax(axis=1) == parents.test_labels
    np.testing.assert_allclose(accuracy(parents, parents.params[1]), right.mean(), atol=1e-6)
    special, rest = accuracy_of_classes(parents, parents.params[1], 0, 4)
    chosen = parents.test_labels == 4
    assert (special, rest) == (right[chosen].mean(), right[~chosen].mean())
    predicted = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.2, 0.8], [0.7, 0.3]]])
    assert ensemble_accuracy(predicted, np.array([0, 1])) == 0.5
    assert ensemble_accuracy(predicted, np.array([0, 1]), (0.9, 0.1)) == 1.0
