"""Datasets in the format of TensorFlow Datasets, written by the tests themselves."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image


@pytest.fixture
def real_data_dir() -> str:
    """Folder of real prepared datasets, or skip."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not Path(folder, "mnist").is_dir():
        pytest.skip("needs a prepared MNIST in TFDS_DATA_DIR")
    return folder


class Writer:
    """Writes datasets of PNG images with labels as array_record files."""

    def __init__(self, data_dir: Path):
        self.data_dir = data_dir

    def write(
        self,
        name: str,
        splits: dict[str, tuple[list[np.ndarray], list[int]]],
        *,
        version: str = "1.0.0",
        classes: int = 10,
        features: tuple[str, str] = ("image", "label"),
        file_format: str = "array_record",
    ) -> Path:
        folder = self.data_dir / name / version
        folder.mkdir(parents=True)
        entries = []
        for split, (images, labels) in splits.items():
            file = folder / f"{name}-{split}.array_record-00000-of-00001"
            writer = array_record_module.ArrayRecordWriter(os.fspath(file), "group_size:1")
            for image, label in zip(images, labels, strict=True):
                writer.write(_example(features, image, label))
            writer.close()
            entries.append(
                {
                    "name": split,
                    "shardLengths": [str(len(labels))],
                    "numBytes": str(file.stat().st_size),
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                }
            )
        image_key, label_key = features
        info = {
            "name": name,
            "version": version,
            "fileFormat": file_format,
            "splits": entries,
            "supervisedKeys": {
                "tuple": {"items": [{"featureKey": image_key}, {"featureKey": label_key}]}
            },
        }
        (folder / "dataset_info.json").write_text(json.dumps(info))
        (folder / "features.json").write_text(json.dumps(_features(features, classes)))
        return folder


@pytest.fixture
def writer(tmp_path) -> Writer:
    return Writer(tmp_path / "tfds")


def _features(names: tuple[str, str], classes: int) -> dict:
    package = "tensorflow_datasets.core.features"
    image = {
        "pythonClassName": f"{package}.image_feature.Image",
        "image": {
            "shape": {"dimensions": ["-1", "-1", "3"]},
            "dtype": "uint8",
            "encodingFormat": "png",
        },
    }
    label = {
        "pythonClassName": f"{package}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(classes)},
    }
    return {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {"features": dict(zip(names, (image, label), strict=True))},
    }


def _example(names: tuple[str, str], image: np.ndarray, label: int) -> bytes:
    # Imported here: the module comes with TensorFlow Datasets, whose import is not cheap.
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    image_key, label_key = names
    feature = {
        image_key: tf_feature_pb2.Feature(
            bytes_list=tf_feature_pb2.BytesList(value=[buffer.getvalue()])
        ),
        label_key: tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[label])),
    }
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=feature))
    return example.SerializeToString()
