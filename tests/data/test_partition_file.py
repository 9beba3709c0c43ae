"""A split that others can run again."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxfuse.data import Partition, partition

LABELS = np.random.default_rng(0).integers(0, 10, 1000)
NAMES = (
    "homo",
    "noniid-#label1",
    "noniid-#label3",
    "noniid-labeldir",
    "iid-diff-quantity",
    "mixed",
    "client-dirichlet",
)


def make(name: str = "homo", **settings) -> Partition:
    settings = {"clients": 10, "key": jax.random.key(5), "concentration": 2.0} | settings
    return partition(name, LABELS, **settings)


def assert_same(one: Partition, two: Partition) -> None:
    for field in dataclasses.fields(Partition):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if field.name == "clients":
            assert len(first) == len(second)
            assert all(map(np.array_equal, first, second))
            assert {each.dtype for each in (*first, *second)} == {np.dtype(np.int64)}
        elif field.name == "key":
            assert (first is None and second is None) or bool((first == second).all())
        elif field.name == "noise" and first is not None:
            np.testing.assert_array_equal(first, second)
        else:
            assert first == second


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_partition_comes_back_from_its_file_and_from_its_settings(tmp_path, name, noise):
    split = make(name, noise=noise, noise_rule="paper")
    split.save(tmp_path / "split.json")
    loaded = Partition.load(tmp_path / "split.json", LABELS)
    assert_same(split, loaded)
    again = partition(loaded.name, LABELS, key=loaded.key, **loaded.settings)
    assert_same(split, again)
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


@pytest.mark.parametrize("key", [jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")])
def test_every_kind_of_key_comes_back(tmp_path, key):
    split = make(key=key)
    split.save(tmp_path / "split.json")
    loaded = Partition.load(tmp_path / "split.json")
    data = jax.random.key_data
    np.testing.assert_array_equal(data(loaded.key), data(key))
    assert_same(split, partition(loaded.name, LABELS, key=key, **loaded.settings))


def test_class_counts_and_sizes():
    split = make("noniid-labeldir")
    counts = split.class_counts(LABELS)
    assert counts.shape == (10, 10)
    np.testing.assert_array_equal(counts.sum(axis=0), np.bincount(LABELS))
    np.testing.assert_array_equal(counts.sum(axis=1), split.sizes)
    for client, each in enumerate(split.clients):
        for label in range(10):
            assert counts[client, label] == sum(LABELS[each] == label)
    assert split.class_counts(LABELS, classes=12).shape == (10, 12)
    with pytest.raises(ValueError, match=r"range\(9\)"):
        split.class_counts(LABELS, classes=9)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("iid", "homo"),
        ("label-2", "noniid-#label2"),
        ("dirichlet", "noniid-labeldir"),
        ("hetero", "noniid-labeldir"),
        ("hetero-dir", "noniid-labeldir"),
        ("quantity", "iid-diff-quantity"),
        ("hsu", "client-dirichlet"),
    ],
)
def test_aliases(name, other):
    assert_same(make(name), make(other))


@pytest.mark.parametrize("name", ["fair", "noniid-#label", "noniid-#labelx", "real"])
def test_unknown_names_are_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"noniid-labeldir.*noniid-#labelK"):
        make(name)


def test_another_dataset_is_refused(tmp_path):
    path = tmp_path / "split.json"
    split = make()
    split.save(path)
    changed = LABELS.copy()
    changed[17] += 1
    for labels, message in ((changed, "other labels"), (LABELS[:-1], "these labels are 999")):
        with pytest.raises(ValueError, match=message):
            Partition.load(path, labels)
        with pytest.raises(ValueError, match=message):
            split.class_counts(labels)
    Partition.load(path, LABELS.astype(np.uint8)).check(LABELS.astype(np.int32))


@pytest.mark.parametrize(
    "text",
    [
        '{"0": [5, 7, 2], "1": [6], "2": []}',
        "{1: [6], 0: [5, 7, 2], 2: []}",
        "{'0': [5, 7, 2], '1': [6], '2': [],}\n",
        "{\n0: [\n5, 7, 2\n],\n1: [\n6\n],\n2: [\n]\n}",
        "{\n0: [\n5, 7, 2]\n1: [\n6]\n2: [\n]\n}\n",
    ],
)
def test_maps_of_others_are_read(tmp_path, text):
    path = tmp_path / "net_dataidx_map.txt"
    path.write_text(text)
    split = Partition.load(path, LABELS)
    assert [each.tolist() for each in split.clients] == [[5, 7, 2], [6], []]
    assert (split.name, split.key) == ("net_dataidx_map", None)
    split.save(tmp_path / "own.json")
    assert_same(split, Partition.load(tmp_path / "own.json", LABELS))
    with pytest.raises(ValueError, match="give labels"):
        Partition.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither of the format"),
        ("é", "can't decode"),
        ("[[1, 2], [3]]", "neither of the format"),
        ("{0: [1, 2], 1: array([3])}", "neither of the format"),
        ("{0: [1, -2]}", "neither of the format"),
        ("{0: [1], 2: [3]}", "must be 0 to 1"),
        ("{0: [1], 0: [3]}", "occurs twice"),
        ("{0: [1], 1: [1000]}", "outside of the 1000 examples"),
        ("{0: [1, 1]}", "an example twice"),
        ('{"format": "jaxfuse partition 2"}', "not 'jaxfuse partition 1'"),
        ('{"format": "jaxfuse partition 1"}', "it has no 'name'"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path, text, message):
    path = tmp_path / "split.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=f"split.json: .*{message}"):
        Partition.load(path, LABELS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": [[0, 1], [1000]]}, "outside"),
        ({"clients": []}, "one client or more"),
        ({"clients": [[0.5]]}, "integer indices"),
        ({"clients": [[[1]]]}, "integer indices"),
        ({"clients": 3}, "cannot read"),
        ({"noise": [0.1]}, "one finite number"),
        ({"noise": [-0.1] * 10}, "one finite number"),
        ({"key": {"impl": "threefry2x32", "data": [1]}}, "cannot read"),
    ],
)
def test_files_that_were_changed_are_refused(tmp_path, changes, message):
    path = tmp_path / "split.json"
    make().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        Partition.load(path, LABELS)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Partition.load(tmp_path / "none.json", LABELS)


def test_own_splits_are_partitions_too():
    split = Partition.of(LABELS, [np.array([3]), np.array([], int)], name="mine", noise=[0.0, 0.5])
    assert split.sizes.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"\[n\] integers"):
        Partition.of(LABELS / 2, [np.array([3])], name="mine")
