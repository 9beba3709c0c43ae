"""`jaxfuse fuse`: every kind of checkpoint in, the layout of the first out."""

import itertools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxfuse.align import AFFINITIES
from jaxfuse.checkpoints import read, write
from jaxfuse.cli.model import fit_model
from jaxfuse.data import load_digits
from jaxfuse.fusion import average, fuse, invert
from jaxfuse.models import create, functional
from jaxfuse.symmetry import infer_symmetry, permute, random_permutations
from jaxfuse.training import evaluate
from tests.cli.command import Command, as_torch, assert_table_shows, shorten_resnet20

WIDTHS = (64, 20, 10, 5, 10)  # the MLP at width 0.05 on the digits, as in the tests of the demo
PNG = b"\x89PNG\r\n\x1a\n"
CHECKPOINTS = os.environ.get("JAXFUSE_CHECKPOINTS")


@pytest.fixture
def run(capsys, monkeypatch) -> Command:
    monkeypatch.setenv("COLUMNS", "150")
    return Command(capsys)


def network(seed: int) -> dict:
    """Weights in the tree of the jaxfuse MLP."""
    generator = np.random.default_rng(seed)
    pairs = itertools.pairwise(WIDTHS)
    kernels = [generator.normal(size=pair) * np.sqrt(2 / pair[0]) for pair in pairs]
    return {"dense": {str(i): {"kernel": k.astype(np.float32)} for i, k in enumerate(kernels)}}


def torch(params: dict) -> dict:
    """The same as a PyTorch state dict."""
    return {
        f"fc{int(index) + 1}.weight": np.ascontiguousarray(layer["kernel"].T)
        for index, layer in params["dense"].items()
    }


def shuffled(params: dict, seed: int) -> dict:
    """The same network with its hidden units in another order."""
    generator = np.random.default_rng(seed)
    kernels = [params["dense"][str(index)]["kernel"].copy() for index in range(4)]
    for index in range(3):
        order = generator.permutation(kernels[index].shape[1])
        kernels[index] = kernels[index][:, order]
        kernels[index + 1] = kernels[index + 1][order]
    return {"dense": {str(index): {"kernel": kernel} for index, kernel in enumerate(kernels)}}


@pytest.fixture(scope="module")
def networks() -> list[dict]:
    return [network(seed) for seed in range(3)]


@pytest.fixture
def files(networks, tmp_path, monkeypatch) -> Path:
    """A folder, also the working one, with network 0 in PyTorch's layout and more."""
    monkeypatch.chdir(tmp_path)
    write("torch0.safetensors", torch(networks[0]))
    write("flax0.safetensors", networks[0])
    write("flax1.safetensors", networks[1])
    write("torch2.safetensors", torch(networks[2]))
    write("shuffled0", shuffled(networks[0], 7))
    write("shuffled0.safetensors", torch(shuffled(networks[0], 8)))
    return tmp_path


def assert_close(got, wanted) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, wanted)


def test_two_networks_as_the_library_fuses_them(run, files, networks):
    outcome = run(
        "fuse", "flax0.safetensors", "flax1.safetensors", "-o", "new/[red]fused.safetensors"
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert "Wrote new/[red]fused.safetensors, fused from 2 networks (linear" in outcome.out
    assert "accuracy was not measured" in outcome.out
    fused = read("new/[red]fused.safetensors")
    assert_close(fused, {f"dense/{i}/kernel": v["kernel"]
                         for i, v in fuse(networks[:2])["dense"].items()})  # fmt: skip


def test_weights_are_shares(run, files, networks):
    words = ("fuse", "flax0.safetensors", "flax1.safetensors", "--weights", "1", "3")
    assert run(*words, "-o", "fused").status == 0
    wanted = fuse(networks[:2], [1, 3])["dense"]
    assert_close(read("fused"), {f"dense/{i}/kernel": v["kernel"] for i, v in wanted.items()})


def test_one_network_in_three_orders_and_formats_is_that_network(run, files, networks):
    three = ("torch0.safetensors", "shuffled0", "shuffled0.safetensors")
    words = ("-o", "fused.safetensors", "--method", "frank_wolfe", "--channels", "1")
    assert run("fuse", *three, *words).status == 0
    assert_close(read("fused.safetensors"), torch(networks[0]))


def test_layout_of_the_first_is_kept(run, files, networks):
    words = ("fuse", "shuffled0", "torch0.safetensors", "-o", "fused", "--channels", "1")
    assert run(*words).status == 0
    assert_close(read("fused"), shuffled(networks[0], 7))


def test_output_is_replaced_with_force_only(run, files, networks):
    before = (files / "flax1.safetensors").read_bytes()
    for output in ("flax1.safetensors", "shuffled0"):
        words = ("fuse", "flax0.safetensors", "flax1.safetensors", "-o", output)
        assert f"{output} exists" in run(*words).one_line()
        assert "--force" in run(*words).err
    assert (files / "flax1.safetensors").read_bytes() == before
    assert_close(read("shuffled0"), shuffled(networks[0], 7))
    listing = sorted(os.listdir(files))
    wanted = fuse(networks[:2])["dense"]
    for output in ("shuffled0", "flax1.safetensors"):
        words = ("fuse", "flax0.safetensors", "flax1.safetensors", "-o", output, "--force")
        assert run(*words).status == 0
        assert_close(read(output), {f"dense/{i}/kernel": v["kernel"] for i, v in wanted.items()})
    assert sorted(os.listdir(files)) == listing


def test_colour_images_are_brought_into_one_order(run, files):
    generator = np.random.default_rng(5)
    # Four positions of three channels: PyTorch flattens channels first, Flax channels last.
    kernels = [generator.normal(size=shape).astype(np.float32) for shape in ((12, 6), (6, 2))]
    write("flax", {"dense": [{"kernel": kernel} for kernel in kernels]})
    channels_first = kernels[0].reshape(4, 3, 6).swapaxes(0, 1).reshape(12, 6)
    state = {"fc1.weight": np.ascontiguousarray(channels_first.T),
             "fc2.weight": np.ascontiguousarray(kernels[1].T)}  # fmt: skip
    write("torch.safetensors", state)
    words = ("fuse", "torch.safetensors", "flax", "-o", "fused.safetensors")
    assert "--channels" in run(*words).one_line()
    assert run(*words, "--channels", "3").status == 0
    assert_close(read("fused.safetensors"), state)


def test_convolutions_of_two_layouts_need_no_channels(run, files):
    generator = np.random.default_rng(5)
    kernels = [generator.normal(size=shape).astype(np.float32) for shape in ((3, 3, 3, 4), (4, 2))]
    write("flax", {"layers": [{"kernel": kernel} for kernel in kernels]})
    state = {"conv.weight": np.ascontiguousarray(kernels[0].transpose(3, 2, 0, 1)),
             "fc.weight": np.ascontiguousarray(kernels[1].T)}  # fmt: skip
    write("torch.safetensors", state)
    assert run("fuse", "torch.safetensors", "flax", "-o", "fused.safetensors").status == 0
    assert_close(read("fused.safetensors"), state)


@pytest.fixture
def group_norm(files) -> dict:
    """Files of one MLP with group normalisation in two orders, PyTorch's names in the second."""
    module = create(
        "mlp", input_shape=(8, 8, 1), classes=10, width=0.04, norm="group", key=jax.random.key(0)
    )
    apply_fn, params = functional(module)
    symmetry = infer_symmetry(apply_fn, params, np.zeros((2, 8, 8, 1), np.float32))
    moved = permute(params, symmetry, random_permutations(symmetry, jax.random.key(1)))
    write("group0", params)
    write("group1.safetensors", as_torch(moved))
    return params


@pytest.mark.parametrize("evaluate", [(), ("--evaluate", "digits")], ids=["blind", "evaluated"])
def test_units_in_groups_of_a_normalisation_are_aligned(run, group_norm, evaluate):
    options = ("--model", "mlp", "--width", "0.04", "--norm", "group", *evaluate)
    channels = () if evaluate else ("--channels", "1")
    words = ("fuse", "group0", "group1.safetensors", "-o", "fused", *options, *channels)
    outcome = run(*words, "--method", "coordinate_ascent")
    assert (outcome.status, outcome.err) == (0, "")
    assert_close(read("fused"), group_norm)


def test_layer_and_group_norm_are_told_apart_by_the_user_only(run, group_norm):
    words = ("fuse", "group0", "group0", "-o", "fused", "--model", "mlp", "--width", "0.04")
    assert "--norm layer or --norm group" in run(*words).one_line()


def test_residual_network_in_two_orders_and_layouts_is_that_network(run, files, monkeypatch):
    shorten_resnet20(monkeypatch)
    module = create(
        "resnet20", input_shape=(32, 32, 3), classes=4, width=0.25, key=jax.random.key(0)
    )
    apply_fn, params = functional(module)
    symmetry = infer_symmetry(apply_fn, params, np.zeros((2, 8, 8, 3), np.float32))
    moved = permute(params, symmetry, random_permutations(symmetry, jax.random.key(1)))
    write("torch.safetensors", as_torch(params))
    write("flax", moved)
    words = ("torch.safetensors", "flax", "-o", "fused.safetensors")
    assert "--model" in run("fuse", *words).one_line()
    options = ("--model", "resnet20", "--width", "0.25", "--method", "coordinate_ascent")
    outcome = run("fuse", *words, *options)
    assert (outcome.status, outcome.err) == (0, "")
    fused = read("fused.safetensors")
    wanted = as_torch(params)
    assert {name: leaf.dtype for name, leaf in fused.items()} == {
        name: leaf.dtype for name, leaf in wanted.items()
    }
    assert_close(fused, dict(sorted(wanted.items())))


def resnet() -> dict[str, np.ndarray]:
    return {
        "conv1.weight": np.ones((4, 3, 3, 3), np.float32),
        "layer1.0.conv1.weight": np.ones((4, 4, 3, 3), np.float32),
        "layer1.0.conv2.weight": np.ones((4, 4, 3, 3), np.float32),
        "linear.weight": np.ones((2, 4), np.float32),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("flax0.safetensors",), "two checkpoints or more"),
        (("flax0.safetensors", "nothing.safetensors"), "no checkpoint at nothing.safetensors"),
        (("flax0.safetensors", "damaged.safetensors"), "damaged.safetensors is no readable"),
        (("flax0.safetensors", "empty"), "empty is no readable orbax checkpoint"),
        (("flax0.safetensors", "resnet.safetensors"), "skip connection"),
        (("resnet.safetensors", "resnet.safetensors"), "skip connection"),
        (("flax0.safetensors", "wide.safetensors"), "shape (64, 20) in params_a and (64, 24)"),
        (("torch0.safetensors", "wide.safetensors", "--channels", "1"), "is it another width?"),
        (("torch0.safetensors", "flax1.safetensors"), "give the --channels of the input images"),
        (("torch0.safetensors", "flax1.safetensors", "--channels", "0"), "must be 1 or more"),
        (("torch0.safetensors", "flax1.safetensors", "--channels", "3"), "images of 3 channels"),
        (("flax0.safetensors", "nan.safetensors"), "NaN or infinity"),
        (("flax0.safetensors", "flax1.safetensors", "--weights", "1"), "got 1 weights for 2"),
        (("flax0.safetensors", "flax1.safetensors", "--weights", "1", "-1"), "non-negative"),
        (("nothing.safetensors", "no.safetensors", "--weights", "0", "0"), "positive sum"),
        (("nothing.safetensors", "no.safetensors", "--weights", "1", "nan"), "positive sum"),
        (("nothing.safetensors", "no.safetensors", "--weights", "1", "inf"), "positive sum"),
        (("flax0.safetensors", "flax1.safetensors", "--evaluate", "digits"), "needs --model"),
        (("flax0.safetensors", "flax1.safetensors", "--report", "x"), "needs --evaluate"),
        (("flax0.safetensors", "flax1.safetensors", "--width", "2"), "--width needs --model"),
        (("flax0.safetensors", "flax1.safetensors", "--norm", "layer"), "--norm needs --model"),
        (("flax0.safetensors", "flax1.safetensors", "--inverted", "9"), "--inverted needs --model"),
        (
            ("flax0.safetensors", "flax1.safetensors", "--model", "mlp", "--inverted", "0"),
            "--inverted must be 1 or more",
        ),
        (("resnet.safetensors", "resnet.safetensors", "--model", "mlp"),
         "the checkpoint is no mlp: leaves"),
        (("flax0.safetensors", "flax1.safetensors", "--model", "resnet20"),
         "no kernels of the names conv1 and linear"),
        (("resnet.safetensors", "resnet.safetensors", "--model", "resnet20"),
         "has nothing for the model's leaves 'bn1/"),
        (("flax0.safetensors", "flax1.safetensors", "--model", "mlp"), "is it another width?"),
        (("torch0.safetensors", "flax1.safetensors", "--model", "mlp", "--width", "0.05"),
         "give the --channels of the input images"),
        (("flax0.safetensors", "flax1.safetensors", "--data-dir", "x"), "--data-dir needs"),
        (("flax0.safetensors", "flax1.safetensors", "--test-split", "x"), "--test-split needs"),
        (("flax0.safetensors", "flax1.safetensors", "--model", "mlp", "--evaluate", "digits",
          "--channels", "1"), "--channels has no effect"),
        (("flax0.safetensors", "flax1.safetensors", "--model", "mlp", "--evaluate", "digits",
          "--test-split", "x"), "--test-split has no effect on digits"),
        (("flax0.safetensors", "flax1.safetensors", "--model", "mlp", "--evaluate", "digits",
          "--width", "half"), "give mlp a number"),
        (("flax0.safetensors", "flax1.safetensors", "-o", "empty", "--force"),
         "is no folder of an orbax checkpoint"),
        (("flax0.safetensors", "flax1.safetensors", "-o", "fused.pt"), "end it in .safetensors"),
        (("flax0.safetensors", "flax1.safetensors", "--model", "mlp", "--evaluate", "digits"),
         "is it another width?"),
        (("flax0.safetensors", "flax1.safetensors", "--model", "lenet", "--evaluate", "digits"),
         "is it another architecture?"),
        (("flax0.safetensors", "flax1.safetensors", "--model", "mlp", "--evaluate", "mnist",
          "--data-dir", "empty"), "no prepared dataset 'mnist' in empty"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line_and_writes_nothing(run, files, networks, words, message):
    write("resnet.safetensors", resnet())
    write("nan.safetensors", jax.tree.map(lambda leaf: leaf * np.nan, networks[0]))
    wide = {name: leaf["kernel"] for name, leaf in networks[0]["dense"].items()}
    wide["0"], wide["1"] = np.ones((64, 24), np.float32), np.ones((24, 10), np.float32)
    write("wide.safetensors", {f"dense/{name}/kernel": leaf for name, leaf in wide.items()})
    (files / "damaged.safetensors").write_bytes(b"damaged")
    (files / "empty").mkdir()
    listing = sorted(os.listdir(files))
    output = () if "-o" in words else ("-o", "fused.safetensors")
    assert message in run("fuse", *words, *output).one_line()
    assert sorted(os.listdir(files)) == listing


def test_evaluation_agrees_with_direct_calls(run, files, networks):
    outcome = run(
        *("fuse", "torch0.safetensors", "flax1.safetensors", "--weights", "2", "1"),
        *("--model", "mlp", "--width", "0.05", "--evaluate", "digits", "--report", "report"),
        *("-o", "fused.safetensors"),
    )
    assert (outcome.status, outcome.err) == (0, "")
    report = json.loads((files / "report" / "results.json").read_text())
    assert_table_shows(outcome, report["rows"])
    assert report["title"] == "mlp on digits, 360 test examples"
    assert (files / "report" / "barrier.png").read_bytes().startswith(PNG)
    rows = {row["name"]: row for row in report["rows"]}
    module = create("mlp", input_shape=(8, 8, 1), classes=10, width=0.05, key=jax.random.key(0))
    apply_fn, _ = functional(module)
    fused = {
        f"aligned average, {name}": fuse(networks[:2], [2, 1], affinity=AFFINITIES[name])
        for name in ("linear", "gaussian")
    }
    candidates = fused | {
        "torch0.safetensors": networks[0],
        "flax1.safetensors": networks[1],
        "plain average": average(networks[:2], [2, 1]),
    }
    assert set(rows) == {*candidates, "prediction ensemble"}
    images, labels = load_digits().test()
    for name, params in candidates.items():
        metrics = evaluate(apply_fn, params, images, labels)
        np.testing.assert_allclose(rows[name]["accuracy"], metrics.accuracy, rtol=1e-6)
        np.testing.assert_allclose(rows[name]["loss"], metrics.loss, rtol=1e-4)
    assert_close(read("fused.safetensors"), torch(fused["aligned average, linear"]))


@pytest.mark.parametrize("evaluated", [(), ("--evaluate", "digits")])
def test_inverted_networks_stand_in_for_data(run, files, networks, evaluated):
    outcome = run(
        *("fuse", "flax0.safetensors", "flax1.safetensors", "-o", "fused.safetensors"),
        *("--model", "mlp", "--width", "0.05", "--inverted", "30"),
        *("--method", "coordinate_ascent", *evaluated),
    )
    assert (outcome.status, outcome.err) == (0, "")
    model = fit_model("mlp", networks[0], width=0.05, norm=None)
    shape = (8, 8, 1) if evaluated else model.input_shape
    module = create("mlp", input_shape=shape, classes=10, width=0.05, key=jax.random.key(0))
    apply_fn, _ = functional(module)
    images = invert(apply_fn, networks[:2], jax.ShapeDtypeStruct((30, *shape), np.float32))
    options = {"apply_fn": apply_fn, "inputs": images, "method": "coordinate_ascent"}
    found = read("fused.safetensors")
    for index, layer in fuse(networks[:2], **options)["dense"].items():
        got = (
            found["dense"][index]["kernel"] if "dense" in found else found[f"dense/{index}/kernel"]
        )
        np.testing.assert_allclose(got, layer["kernel"], rtol=1e-2, atol=1e-3)


def test_affinity_that_is_chosen_is_in_the_table_and_written(run, files, networks):
    outcome = run(
        *("fuse", "flax0.safetensors", "flax0.safetensors", "--affinity", "exact_gaussian"),
        *("--method", "coordinate_ascent", "-o", "fused"),
        *("--model", "mlp", "--width", "0.05", "--evaluate", "digits"),
    )
    assert (outcome.status, outcome.err) == (0, "")
    aligned = [name for name in outcome.table() if name.startswith("aligned")]
    assert aligned == [f"aligned average, {n}" for n in ("linear", "gaussian", "exact_gaussian")]
    assert "aligned average, linear: flax0.safetensors: ALREADY_ALIGNED" in outcome.out
    wanted = {f"dense/{i}/kernel": v["kernel"] for i, v in networks[0]["dense"].items()}
    assert_close(read("fused"), wanted)


@pytest.mark.skipif(
    not CHECKPOINTS or not os.environ.get("TFDS_DATA_DIR"),
    reason="needs the folders JAXFUSE_CHECKPOINTS, with mnist_mlp_{0,1}.safetensors, and "
    "TFDS_DATA_DIR, with MNIST",
)
def test_published_pair_on_mnist(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pair = [Path(str(CHECKPOINTS)) / f"mnist_mlp_{index}.safetensors" for index in (0, 1)]
    output = tmp_path / "fused.safetensors"
    outcome = run(
        *("fuse", *pair, "-o", output, "--model", "mlp", "--evaluate", "mnist"),
        *("--report", tmp_path),
    )
    assert (outcome.status, outcome.err) == (0, "")
    report = json.loads((tmp_path / "results.json").read_text())
    assert_table_shows(outcome, report["rows"])
    accuracy = {row["name"]: row["accuracy"] for row in report["rows"]}
    assert accuracy["aligned average, linear"] >= 0.969
    assert abs(accuracy["plain average"] - 0.7384) <= 0.001
    shapes = {name: leaf.shape for name, leaf in read(pair[0]).items()}
    assert {name: leaf.shape for name, leaf in read(output).items()} == shapes
    assert (tmp_path / "barrier.png").read_bytes().startswith(PNG)
