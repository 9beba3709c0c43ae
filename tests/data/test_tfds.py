"""Prepared TensorFlow Datasets folders, written by the tests, and real MNIST where there is one."""

import json
import sys

import numpy as np
import pytest

from jaxfuse.data import load, load_tfds


def examples(count: int, seed: int, side: int = 6) -> tuple[list[np.ndarray], list[int]]:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return list(images), generator.integers(0, 10, count).tolist()


@pytest.fixture
def splits() -> dict[str, tuple[list[np.ndarray], list[int]]]:
    return {"train": examples(12, 0), "test": examples(5, 1)}


def test_reads_images_and_labels_in_order(writer, splits, tmp_path):
    writer.write("blobs", splits)
    dataset = load_tfds("blobs", writer.data_dir, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(dataset.train_images, np.stack(splits["train"][0]))
    np.testing.assert_array_equal(dataset.train_labels, splits["train"][1])
    np.testing.assert_array_equal(dataset.test_images, np.stack(splits["test"][0]))
    assert dataset.train_labels.dtype == np.int32
    assert (dataset.name, dataset.classes, dataset.scale) == ("blobs", 10, 255.0)
    images, _ = dataset.train()
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), 1, atol=1e-4)


def test_does_not_import_tensorflow(writer, splits, tmp_path):
    writer.write("blobs", splits)
    load_tfds("blobs", writer.data_dir, cache_dir=tmp_path / "cache")
    assert "tensorflow" not in sys.modules


def test_split_language(writer, splits, tmp_path):
    writer.write("blobs", splits)
    dataset = load_tfds(
        "blobs",
        writer.data_dir,
        train_split="train[:8]",
        test_split="train[8:]",
        cache_dir=tmp_path / "cache",
    )
    np.testing.assert_array_equal(dataset.train_labels, splits["train"][1][:8])
    np.testing.assert_array_equal(dataset.test_labels, splits["train"][1][8:])


def test_cached_images_are_not_decoded_again(writer, splits, tmp_path):
    writer.write("blobs", splits)
    calls = []

    def read():
        return load_tfds(
            "blobs",
            writer.data_dir,
            cache_dir=tmp_path / "cache",
            progress=lambda done, total: calls.append((done, total)),
        )

    first = read()
    assert calls == [(12, 12), (5, 5)]
    again = read()
    assert len(calls) == 2
    np.testing.assert_array_equal(first.train_images, again.train_images)
    assert not list((tmp_path / "cache").glob("*.part"))


def test_cache_follows_the_files(writer, splits, tmp_path):
    folder = writer.write("blobs", splits)
    cache_dir = tmp_path / "cache"
    load_tfds("blobs", writer.data_dir, cache_dir=cache_dir)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    splits["train"] = examples(12, 7)
    writer.write("blobs", splits)
    dataset = load_tfds("blobs", writer.data_dir, cache_dir=cache_dir)
    np.testing.assert_array_equal(dataset.train_images, np.stack(splits["train"][0]))


def test_default_cache_is_in_the_cache_home(writer, splits, tmp_path, monkeypatch):
    writer.write("blobs", splits)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    load_tfds("blobs", writer.data_dir)
    assert len(list((tmp_path / "home" / "jaxfuse").glob("blobs-*.npz"))) == 2


def test_newest_version_unless_one_is_named(writer, splits, tmp_path):
    writer.write("blobs", splits, version="2.9.0")
    writer.write("blobs", {"train": examples(3, 2), "test": examples(2, 3)}, version="2.10.0")
    cache_dir = tmp_path / "cache"
    assert len(load_tfds("blobs", writer.data_dir, cache_dir=cache_dir).train_labels) == 3
    old = load_tfds("blobs:2.9.0", writer.data_dir, cache_dir=cache_dir)
    assert len(old.train_labels) == 12


def test_features_of_other_names(writer, splits, tmp_path):
    writer.write("blobs", splits, features=("picture", "kind"))
    dataset = load("blobs", writer.data_dir, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(dataset.train_labels, splits["train"][1])


def test_data_dir_from_the_environment(writer, splits, tmp_path, monkeypatch):
    writer.write("blobs", splits)
    monkeypatch.setenv("TFDS_DATA_DIR", str(writer.data_dir))
    assert load("blobs", cache_dir=tmp_path / "cache").test_labels.shape == (5,)


@pytest.mark.parametrize("environment", [True, False])
def test_missing_dataset_says_where_and_how_in_one_line(tmp_path, monkeypatch, environment):
    folder = tmp_path / "tensorflow_datasets"
    if environment:
        monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    else:
        monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist")
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    assert f"tfds build mnist --file_format=array_record --data_dir={folder}" in message


def test_missing_version_is_not_found(writer, splits):
    writer.write("blobs", splits)
    with pytest.raises(FileNotFoundError, match=r"blobs:3\.0\.0"):
        load_tfds("blobs:3.0.0", writer.data_dir)


@pytest.mark.parametrize("name", ["../blobs", "/etc", "", "a b", "blobs:../1.0.0"])
def test_names_that_are_paths_are_refused(writer, name):
    with pytest.raises(ValueError, match="no dataset name"):
        load_tfds(name, writer.data_dir)


def test_unknown_split_lists_the_splits(writer, splits, tmp_path):
    writer.write("blobs", splits)
    with pytest.raises(ValueError, match="it has train, test"):
        load_tfds(
            "blobs", writer.data_dir, test_split="validation[:5]", cache_dir=tmp_path / "cache"
        )


def test_empty_split_is_refused(writer, splits, tmp_path):
    writer.write("blobs", splits)
    with pytest.raises(ValueError, match="no examples"):
        load_tfds("blobs", writer.data_dir, test_split="test[5:]", cache_dir=tmp_path / "cache")


def test_images_of_several_shapes_are_refused(writer, splits, tmp_path):
    splits["test"] = (splits["test"][0][:4] + examples(1, 0, side=7)[0], splits["test"][1])
    writer.write("blobs", splits)
    with pytest.raises(ValueError, match="differ in shape"):
        load_tfds("blobs", writer.data_dir, cache_dir=tmp_path / "cache")


def test_other_file_formats_are_refused(writer, splits):
    writer.write("blobs", splits, file_format="tfrecord")
    with pytest.raises(ValueError, match="--file_format=array_record"):
        load_tfds("blobs", writer.data_dir)


def test_datasets_without_labels_are_refused(writer, splits):
    folder = writer.write("blobs", splits)
    features = json.loads((folder / "features.json").read_text())
    del features["featuresDict"]["features"]["label"]
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(ValueError, match="no images with class labels"):
        load_tfds("blobs", writer.data_dir)


def test_real_mnist(real_data_dir, tmp_path):
    dataset = load(
        "mnist",
        real_data_dir,
        train_split="train[:2000]",
        test_split="test[:500]",
        cache_dir=tmp_path / "cache",
    )
    assert dataset.train_images.shape == (2000, 28, 28, 1)
    assert dataset.input_shape == (28, 28, 1)
    assert set(dataset.test_labels.tolist()) == set(range(10))
    assert (dataset.mean, dataset.std) == ((0.1307,), (0.3081,))
    images, _ = dataset.train()
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05
