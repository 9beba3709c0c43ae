"""Parents: their names in the cache, their examples, and that they are trained once."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxfuse.experiments import family as module
from jaxfuse.experiments.family import SPECIAL_CLASS, Family, Nursery, finetune
from jaxfuse.training import TrainingConfig

FAMILY = Family(
    name="pair",
    dataset="digits",
    model="mlp",
    widths=(0.02, 0.02),
    training=TrainingConfig(epochs=1),
)


def test_names_are_the_same_in_every_process():
    script = (
        "from tests.experiments.test_family import FAMILY\n"
        "print(FAMILY.digest(3, 1), FAMILY.digest(3, 1, FAMILY.training))"
    )
    # This process has a hash seed of its own.
    variables = {
        "PYTHONHASHSEED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path))),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [FAMILY.digest(3, 1), FAMILY.digest(3, 1, FAMILY.training)]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "lenet"},
        {"widths": (0.02, 0.03)},
        {"training": TrainingConfig(epochs=2)},
        {"train_split": "train[:10]"},
        {"dataset": "mnist"},
        {"split": "dirichlet"},
    ],
)
def test_names_tell_configurations_apart(change):
    other = dataclasses.replace(FAMILY, **change)
    assert other.digest(0, 1) != FAMILY.digest(0, 1)


def test_inversions_are_made_once_for_all_methods(tmp_path):
    told = []
    nursery = Nursery(tmp_path, tell=lambda text, share: told.append(text))
    first = nursery.inversions(FAMILY, 0, 12)
    assert nursery.inversions(FAMILY, 0, 12) is first
    assert sum("inverting 2 networks" in text for text in told) == 1
    np.testing.assert_array_equal(first, nursery.parents(FAMILY, 0).inversions(12))
    assert nursery.inversions(FAMILY, 0, 5).shape == (5, 8, 8, 1)


def test_names_of_networks_that_see_all_do_not_depend_on_how_many_there_are():
    four = dataclasses.replace(FAMILY, widths=(0.02,) * 4, name="four")
    assert four.digest(0, 1) == FAMILY.digest(0, 1)
    drawn = [dataclasses.replace(each, split="dirichlet") for each in (FAMILY, four)]
    assert drawn[0].digest(0, 1) != drawn[1].digest(0, 1)


def test_networks_are_trained_once_and_finetuned_from_where_they_were(tmp_path, monkeypatch):
    parents = Nursery(tmp_path).parents(FAMILY, 0)
    again = TrainingConfig(epochs=1, learning_rate=0.01)
    further = Nursery(tmp_path).finetuned(FAMILY, 0, again)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4

    def refuse(*arguments, **options):
        raise AssertionError("a cached network is trained again")

    expected = finetune(parents, 1, again, 0).params
    monkeypatch.setattr(module, "train", refuse)
    fresh = Nursery(tmp_path)
    for mine, read in (
        (parents.params, fresh.parents(FAMILY, 0).params),
        (further, fresh.finetuned(FAMILY, 0, again)),
    ):
        jax.tree.map(np.testing.assert_array_equal, tuple(mine), tuple(read))
    jax.tree.map(np.testing.assert_array_equal, expected, further[1])
    kernels = [each["dense"]["0"]["kernel"] for each in (*parents.params, further[0])]
    assert not np.allclose(kernels[0], kernels[1])
    assert not np.allclose(kernels[0], kernels[2])


def test_unlabelled_images_are_training_images_of_the_right_parents(tmp_path):
    special = dataclasses.replace(FAMILY, split="personalised")
    parents = Nursery(tmp_path).parents(special, 0)
    first, second = (set(share.tolist()) for share in parents.shares)
    assert not first & second
    assert len(parents.union()) == len(parents.labels)
    assert all(parents.labels[index] != SPECIAL_CLASS for index in second)

    def owners(images):
        flat = parents.images.reshape(len(parents.images), -1)
        found = [np.flatnonzero((flat == each.reshape(-1)).all(axis=1)) for each in images]
        return [any(int(index) in first for index in rows) for rows in found]

    assert all(owners(np.asarray(parents.unlabelled(30, of=0))))
    mixed = owners(np.asarray(parents.unlabelled(31)))
    assert len(mixed) == 31
    assert sum(mixed) == 16
