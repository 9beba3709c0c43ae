"""Any dataset by its name."""

import os

from jaxfuse.data.dataset import Dataset
from jaxfuse.data.digits import load_digits
from jaxfuse.data.tfds import Progress, load_tfds


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    train_split: str = "train",
    test_split: str = "test",
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load a dataset by its name.

    Args:
        name: "digits" (with scikit-learn, no files needed), or a dataset that TensorFlow Datasets
            has prepared: "mnist", "cifar10" or any other of labelled images.
        data_dir: Folder of prepared datasets; see `load_tfds`.
        train_split: Split to train on. "digits" has one split only.
        test_split: Split to test on.
        cache_dir: Folder of decoded images; see `load_tfds`.
        progress: Called with `(decoded, total)` while images are decoded.

    Returns:
        The dataset.

    Raises:
        FileNotFoundError: The dataset is not prepared in the folder.
        ValueError: The name, the split or the kind of the dataset does not fit.

    Examples:
        >>> load("digits").classes
        10
    """
    if name != "digits":
        return load_tfds(
            name,
            data_dir,
            train_split=train_split,
            test_split=test_split,
            cache_dir=cache_dir,
            progress=progress,
        )
    if (train_split, test_split) != ("train", "test"):
        raise ValueError(
            f"digits has the splits train and test and no others, got {train_split!r} and "
            f"{test_split!r}"
        )
    return load_digits()
