"""`jaxfuse align`: checkpoints that stay on disk."""

import os
import re

import jax
import numpy as np
import pytest

from jaxfuse import infer_chain, infer_symmetry, permute
from jaxfuse.checkpoints import read, write
from jaxfuse.models import create, functional
from jaxfuse.symmetry import random_permutations
from tests.checkpoints.sharded import write_sharded
from tests.cli.command import Command

SHAPES = {"fc1.weight": (8, 4), "fc2.weight": (7, 8), "fc3.weight": (3, 7)}


@pytest.fixture
def run(capsys, monkeypatch, tmp_path) -> Command:
    """The command in a folder with a network and the same in another order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    first = weights()
    symmetry = infer_chain(first)
    second = permute(first, symmetry, random_permutations(symmetry, jax.random.key(1)))
    write("a.safetensors", first)
    write("b.safetensors", second)
    write_sharded(tmp_path / "b", second, 2)
    return Command(capsys)


def weights() -> dict:
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def assert_aligned(path: str) -> None:
    got = read(path)
    assert set(got) == set(SHAPES)
    for name, leaf in weights().items():
        np.testing.assert_array_equal(got[name], leaf)


def test_writes_and_says_what_it_found(run):
    outcome = run(
        "align", "a.safetensors", "b.safetensors", "-o", "out.safetensors", "--memory", "1MB"
    )
    assert outcome.status == 0
    assert_aligned("out.safetensors")
    found = re.search(
        r"Objective (\S+) before, (\S+) after (\d) sweeps: converged\n"
        r"Read (\S+) MB and held (\S+) MB at most\nWrote out.safetensors\n",
        outcome.out,
    )
    assert found is not None
    before, after, sweeps, _, held = map(float, found.groups())
    assert before < after
    assert after == pytest.approx(sum(np.sum(leaf**2) for leaf in weights().values()), rel=1e-5)
    assert sweeps >= 1
    assert held <= 1


def test_folder_of_files(run):
    assert run("align", "a.safetensors", "b", "-o", "out").status == 0
    assert sorted(os.listdir("out")) == sorted(os.listdir("b"))


def test_symmetry_from_a_file(run):
    symmetry = infer_chain(weights())
    with open("symmetry.json", "w") as file:
        file.write(symmetry.to_json())
    options = ("--symmetry", "symmetry.json")
    assert (
        run("align", "a.safetensors", "b.safetensors", "-o", "out.safetensors", *options).status
        == 0
    )
    assert_aligned("out.safetensors")


def test_bundled_model(run):
    """A residual network in the names of its model; in those of PyTorch it is refused."""
    module = create("resnet20", input_shape=(8, 8, 3), classes=4, width=0.25, key=jax.random.key(0))
    apply_fn, params = functional(module)
    symmetry = infer_symmetry(apply_fn, params, np.zeros((2, 8, 8, 3), np.float32))
    write("first.safetensors", params)
    other = permute(params, symmetry, random_permutations(symmetry, jax.random.key(2)))
    write("second.safetensors", other)
    words = ("align", "first.safetensors", "second.safetensors", "-o", "out.safetensors")
    model = ("--model", "resnet20", "--width", "0.25")
    assert run(*words, *model).status == 0
    got, wanted = read("out.safetensors"), read("first.safetensors")
    assert all(np.array_equal(got[name], wanted[name]) for name in wanted)
    renamed = {name.replace("/", "."): leaf for name, leaf in wanted.items()}
    write("torch.safetensors", renamed)
    torch = ("align", "torch.safetensors", "torch.safetensors", "-o", "no.safetensors")
    assert "not named and laid out as those of jaxfuse's resnet20" in run(*torch, *model).one_line()
    message = run("align", *words[1:3], "-o", "no.safetensors").one_line()
    assert "Give its symmetry with --symmetry, or its architecture with --model" in message
    assert not os.path.exists("no.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory", "lots"), "--memory 'lots' is no size: write a number with MB or GB"),
        (("--memory", "0GB"), "--memory '0GB' is no size"),
        (("--memory", "0.001MB"), "MB is too little: the scores and the assignment of"),
        (("--width", "2"), "--width needs --model"),
        (("--symmetry", "x.json", "--model", "mlp"), "give --symmetry or --model, not both"),
        (("--symmetry", "x.json"), "x.json"),
        (("--max-sweeps", "-1"), "max_sweeps not negative"),
    ],
)
def test_refused_options(run, options, message):
    outcome = run("align", "a.safetensors", "b.safetensors", "-o", "out.safetensors", *options)
    assert message in outcome.one_line()
    assert not os.path.exists("out.safetensors")


def test_refused_paths(run):
    assert (
        "no checkpoint at no.safetensors"
        in run("align", "no.safetensors", "b.safetensors", "-o", "out.safetensors").one_line()
    )
    assert (
        "b.safetensors exists: choose another output, or pass --force"
        in run("align", "a.safetensors", "b.safetensors", "-o", "b.safetensors").one_line()
    )
    words = ("align", "a.safetensors", "b.safetensors", "-o", "b.safetensors", "--force")
    assert run(*words).status == 0
    assert_aligned("b.safetensors")
