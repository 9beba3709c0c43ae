"""Prepared TensorFlow Datasets folders, read without TensorFlow."""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxfuse.data import cache
from jaxfuse.data.dataset import Dataset, channel_statistics

Progress = Callable[[int, int], None]
"""Called with `(examples decoded, examples in all)` of a split."""

_DECODED_AT_ONCE = 1000

# Mean and standard deviation of pixels / 255, as OTFusion's released code uses them.
_STATISTICS = MappingProxyType(
    {
        "mnist": ((0.1307,), (0.3081,)),
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    }
)


def load_tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    train_split: str = "train",
    test_split: str = "test",
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load an image classification dataset that TensorFlow Datasets has prepared.

    Nothing is downloaded and TensorFlow is not needed: the files must be in the array_record
    format. Decoded images are kept in a cache folder, keyed by the files they come from, so that
    the second load takes a fraction of a second.

    Args:
        name: Name in TensorFlow Datasets ("mnist", "cifar10", "imagenet_resized/32x32"), with a
            version if wanted ("mnist:3.0.1"); the newest prepared version by default.
        data_dir: Folder that holds the prepared datasets. Default: `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`.
        train_split: Split to train on, in the language of TensorFlow Datasets: "train",
            "train[:40000]", "train[:80%]".
        test_split: Split to test on: "test", "validation", "train[40000:]".
        cache_dir: Folder of decoded images. Default: `$XDG_CACHE_HOME/jaxfuse`, else
            `~/.cache/jaxfuse`.
        progress: Called with `(decoded, total)` while a split that is not cached is decoded.

    Returns:
        The dataset, images uint8. Mean and standard deviation are the published ones of MNIST,
        CIFAR-10, and measured on the training images otherwise.

    Raises:
        FileNotFoundError: The dataset is not prepared in the folder.
        ValueError: The split does not exist, or the examples are not labelled images of one shape.
    """
    folder = _prepared_folder(name, _data_dir(data_dir))
    builder = _builder(folder)
    classes = _label_feature(builder).num_classes
    directory = cache.default_cache_dir() if cache_dir is None else os.fspath(cache_dir)
    train_images, train_labels = _load_split(builder, folder, train_split, directory, progress)
    test_images, test_labels = _load_split(builder, folder, test_split, directory, progress)
    statistics = _STATISTICS.get(builder.info.name) or channel_statistics(train_images, 255.0)
    mean, std = statistics
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=classes,
        scale=255.0,
        mean=mean,
        std=std,
    )


def _data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def _prepared_folder(name: str, data_dir: Path) -> Path:
    dataset, _, version = name.partition(":")
    # The name becomes a path: it must stay inside the folder.
    if not re.fullmatch(r"\w+(/[\w.-]+)?", dataset) or not re.fullmatch(r"[\d.]*", version):
        raise ValueError(
            f"{name!r} is no dataset name: write name, name/config or name:version, such as "
            "mnist:3.0.1"
        )
    versions = {
        tuple(int(part) for part in path.parent.name.split(".")): path.parent
        for path in (data_dir / dataset).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
        and (not version or path.parent.name == version)
    }
    if not versions:
        raise FileNotFoundError(
            f"no prepared dataset {name!r} in {data_dir}: prepare it with `tfds build {dataset} "
            f"--file_format=array_record --data_dir={data_dir}`, or set TFDS_DATA_DIR"
        )
    return versions[max(versions)]


def _builder(folder: Path) -> Any:
    # Imported here: it takes a third of a second that loading the digits need not pay.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{folder} holds files of another format, which need TensorFlow: prepare the dataset "
            "with --file_format=array_record"
        )
    return builder


def _keys(builder: Any) -> tuple[str, str]:
    image, label = builder.info.supervised_keys or ("image", "label")
    return image, label


def _label_feature(builder: Any) -> Any:
    image, label = _keys(builder)
    features = builder.info.features
    if not {image, label} <= set(features) or not hasattr(features[label], "num_classes"):
        raise ValueError(
            f"{builder.info.name} has no images with class labels, its features are "
            f"{', '.join(features)}: load another dataset"
        )
    return features[label]


def _load_split(
    builder: Any,
    folder: Path,
    split: str,
    directory: Path | str,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    available = builder.info.splits
    if re.split(r"\W", split)[0] not in available:
        raise ValueError(
            f"{builder.info.name} has no split {split!r}: it has {', '.join(available)}"
        )
    if available[split].num_examples == 0:
        raise ValueError(f"split {split!r} of {builder.info.name} holds no examples")
    key = cache.fingerprint((path for path in folder.iterdir() if path.is_file()), split)
    path = Path(directory) / f"{builder.info.name}-{key}.npz"
    arrays = cache.read(path)
    if arrays is None or arrays.keys() != {"images", "labels"}:
        images, labels = _decode(builder, split, progress)
        arrays = {"images": images, "labels": labels}
        cache.write(path, arrays)
    return arrays["images"], arrays["labels"]


def _decode(builder: Any, split: str, progress: Progress | None) -> tuple[np.ndarray, np.ndarray]:
    source = builder.as_data_source(split=split)
    total = len(source)
    image_key, label_key = _keys(builder)
    images: np.ndarray | None = None
    labels = np.empty(total, np.int32)
    with _quiet_image_decoder():
        for start in range(0, total, _DECODED_AT_ONCE):
            stop = min(start + _DECODED_AT_ONCE, total)
            for index, record in enumerate(source.__getitems__(range(start, stop)), start):
                image = record[image_key]
                if images is None:
                    images = np.empty((total, *image.shape), np.uint8)
                if image.shape != images.shape[1:]:
                    raise ValueError(
                        f"images of {builder.info.name} differ in shape, {image.shape} and "
                        f"{images.shape[1:]}: choose a dataset of one image size"
                    )
                images[index], labels[index] = image, record[label_key]
            if progress is not None:
                progress(stop, total)
    assert images is not None
    return images, labels


@contextlib.contextmanager
def _quiet_image_decoder() -> Iterator[None]:
    """Drop the remark of the decoder that another image library would be faster."""

    def is_other(record: logging.LogRecord) -> bool:
        return "OpenCV is not installed" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
