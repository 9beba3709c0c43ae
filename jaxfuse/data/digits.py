"""The 8x8 handwritten digits that come with scikit-learn."""

import numpy as np
from sklearn import datasets, model_selection

from jaxfuse.data.dataset import Dataset, channel_statistics

_TEST_EXAMPLES = 360
_SPLIT_SEED = 0
_LARGEST_PIXEL = 16.0


def load_digits() -> Dataset:
    """Load the 1,797 digits of scikit-learn, 1,437 to train on and 360 to test.

    The split is stratified by class and always the same. Pixels are 0 to 16; mean and standard
    deviation are those of the training images.

    Returns:
        The dataset, images `[n, 8, 8, 1]` uint8.

    Examples:
        >>> load_digits().test_images.shape
        (360, 8, 8, 1)
    """
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8, 1).astype(np.uint8)
    labels = labels.astype(np.int32)
    train, test = model_selection.train_test_split(
        np.arange(len(labels)),
        test_size=_TEST_EXAMPLES,
        stratify=labels,
        random_state=_SPLIT_SEED,
    )
    mean, std = channel_statistics(images[train], _LARGEST_PIXEL)
    return Dataset(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=10,
        scale=_LARGEST_PIXEL,
        mean=mean,
        std=std,
    )
