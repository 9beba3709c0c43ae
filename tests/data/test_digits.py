"""The digits of scikit-learn, and the container of datasets."""

import dataclasses

import numpy as np
import pytest
from sklearn import datasets

from jaxfuse.data import Dataset, channel_statistics, load, load_digits


@pytest.fixture
def digits() -> Dataset:
    return load_digits()


def test_every_digit_is_in_one_split(digits):
    everything = np.concatenate([digits.train_images, digits.test_images])
    rows = np.sort(everything.reshape(1797, 64).astype(int), axis=0)
    expected = np.sort(datasets.load_digits().data.astype(int), axis=0)
    np.testing.assert_array_equal(rows, expected)
    assert digits.train_images.dtype == np.uint8


def test_split_is_stratified_and_always_the_same(digits):
    again = load("digits")
    np.testing.assert_array_equal(digits.train_images, again.train_images)
    shares = np.bincount(digits.test_labels) / (
        np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
    )
    np.testing.assert_allclose(shares, 360 / 1797, atol=0.005)


def test_normalised_images_have_mean_zero_and_deviation_one(digits):
    images, labels = digits.train()
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    assert abs(images.mean()) < 1e-5
    assert abs(images.std() - 1) < 1e-5
    expected = (digits.test_images / 16 - digits.mean[0]) / digits.std[0]
    np.testing.assert_allclose(digits.test()[0], expected, atol=1e-5)


def test_subset_keeps_the_normalisation(digits):
    part = digits.subset(np.array([3, 1]))
    np.testing.assert_array_equal(part.train_labels, digits.train_labels[[3, 1]])
    np.testing.assert_array_equal(part.test_images, digits.test_images)
    assert part.mean == digits.mean


def test_other_splits_are_refused():
    with pytest.raises(ValueError, match="no others"):
        load("digits", train_split="train[:100]")


def test_arrays_that_do_not_fit_are_refused(digits):
    with pytest.raises(ValueError, match="test images must be"):
        dataclasses.replace(digits, test_labels=digits.test_labels[:-1])
    with pytest.raises(ValueError, match="one number a channel"):
        dataclasses.replace(digits, mean=(0.1, 0.2, 0.3))


def test_channel_statistics_agree_with_numpy():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
    mean, std = channel_statistics(images, 255.0)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), atol=1e-6)
