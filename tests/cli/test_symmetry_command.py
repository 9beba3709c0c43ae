"""`jaxfuse symmetry`: bundled models, functions of the user's own, refusals."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.models.zoo import ZOO
from jaxfuse.symmetry import Symmetry
from tests.cli.command import Command

# Every kind of function that a user may name, and may get wrong.
OWN = """
import jax, jax.numpy as jnp
from flax import nnx

def mlp(params, x):
    return jnp.tanh(x @ params["in"]) @ params["out"]

def weights():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"in": (3, 6), "out": (6, 2)}
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items())}

def function():
    return mlp, weights(), jax.random.normal(jax.random.key(1), (4, 3))

def module():
    return nnx.Linear(3, 2, rngs=nnx.Rngs(0)), jnp.ones((2, 3))

def constant():
    return mlp, weights(), jnp.ones((4, 3))

def shapes():
    return mlp, weights(), jax.ShapeDtypeStruct((4, 3), jnp.float32)

def unknown():
    return lambda p, x: jax.lax.linalg.qr(x @ p["in"])[0], weights(), jnp.ones((4, 3))

def fails():
    raise RuntimeError("no weights here")

def needs(argument):
    return ()

def wrong():
    return mlp, weights(), jnp.ones((4, 5))

def lone():
    return mlp

def empty():
    return ()

def number():
    return 3, jnp.ones(2)

value = 3
"""


@pytest.fixture
def run(capsys, monkeypatch) -> Command:
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: Command(capsys)("symmetry", *words)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with functions of the user's own."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "own": OWN, "broken": "import nonexistent_package\n", "divides": "1 / 0\n",
        "typo": "def f(:\n", "sub/inner": OWN,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, Path(name).name, raising=False)
    return tmp_path


def test_list_prints_every_name(run):
    outcome = run("list")
    assert (outcome.status, outcome.out.split()) == (0, list(ZOO))


@pytest.mark.parametrize("name", ["mlp", "resnet20_pad"])
def test_table_names_groups_leaves_and_pins(run, name):
    outcome = run(name)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("group")
    assert "output" in outcome.out
    assert "100.0% of the parameters lie on a group" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 100


def test_small_model_is_verified(run):
    outcome = run("lstm", "--verify", "--seed", "3")
    assert (outcome.status, outcome.err) == (0, "")
    change = re.search(r"changed the outputs by (\S+) at most", outcome.out)
    assert change is not None
    assert float(change[1]) < 1e-4
    assert "nothing is missed" in outcome.out


def test_published_size_is_traced_on_shapes(run):
    outcome = run("vgg16", "--published")
    assert outcome.status == 0
    assert re.search(r"conv/12 +512 ", outcome.out)


def test_json_is_what_the_table_shows(run):
    outcome = run("mlp", "-o", "new/mlp.json")
    assert outcome.status == 0
    assert "Wrote new/mlp.json" in outcome.out
    symmetry = Symmetry.from_json(Path("new/mlp.json").read_text())
    assert symmetry.groups == {"dense/0": 12, "dense/1": 8, "dense/2": 6}
    assert json.loads(Path("new/mlp.json").read_text())


@pytest.mark.parametrize(
    "name", ["own:function", "own.py:function", "sub/inner.py:function", "sub.inner:function"]
)
def test_function_of_the_users_own_is_found_in_the_folder(run, name):
    path = list(sys.path)
    outcome = run(name, "--verify")
    assert (outcome.status, outcome.err) == (0, "")
    assert re.search(r"^in +6 +in\[1\], out\[0\]", outcome.out, re.M)
    assert "nothing is missed" in outcome.out
    assert sys.path == path


def test_module_of_the_users_own_without_hidden_units_has_no_group(run):
    outcome = run("own:module")
    assert outcome.status == 0
    assert "0.0% of the parameters" in outcome.out


def test_constant_inputs_are_named_as_the_reason(run):
    outcome = run("own:constant", "--verify")
    assert outcome.status == 1
    assert "swapping entries changed nothing: in[0]" in outcome.out
    assert "Input 0 is constant, which hides orders: draw it at random" in outcome.out


def test_shapes_are_traced_and_not_verified(run):
    assert run("own:shapes").status == 0
    assert "shape without values" in run("own:shapes", "--verify").err


def test_unknown_primitive_is_a_line(run):
    outcome = run("own:unknown")
    assert (outcome.status, outcome.err) == (0, "")
    assert re.search(r"^Warning: .*qr", outcome.out, re.M)
    assert "site-packages" not in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gpt-2",), "unknown model 'gpt-2', did you mean gpt2"),
        (("MLP",), "did you mean mlp"),
        (("zzzzzz",), "`jaxfuse symmetry list` prints the bundled ones"),
        (("mlp", "--published", "--verify"), "--published only looks at shapes: give one"),
        (("own:function", "--published"), "--published is for bundled models"),
        (("list", "--verify"), "--verify has no effect on the list"),
        (("mlp", "-o", "."), ". is a folder: name a file in it"),
        (("nowhere:function",), "can't import nowhere:function: ModuleNotFoundError"),
        (("own:nothing",), "has no attribute 'nothing'"),
        (("broken:f",), "No module named 'nonexistent_package' ("),
        (("divides:f",), "can't import divides:f: ZeroDivisionError: division by zero ("),
        (("typo:f",), "SyntaxError"),
        ((":",), "':' names no function"),
        (("./own:function",), "write package.module:function or file.py:function"),
        (("own:value",), "own:value is no function, but int"),
        (("own:fails",), "own:fails failed: RuntimeError: no weights here ("),
        (("own:needs",), "missing 1 required positional argument: 'argument'"),
        (("own:lone",), "own:lone returned function: return a tuple of the module and its inputs"),
        (("own:empty",), "own:empty returned an empty tuple"),
        (("own:number",), "needs a function or a module"),
        (("own:wrong",), "tracing own:wrong failed: TypeError: dot_general"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_work_is_one_line(run, folder, words, message):
    before = sorted(os.listdir(folder))
    assert message in run(*words).one_line()
    assert [name for name in sorted(os.listdir(folder)) if name != "__pycache__"] == before


def test_place_of_a_failure_is_the_users_line(run, folder):
    line = OWN.splitlines().index('    raise RuntimeError("no weights here")') + 1
    assert f"({folder}/own.py:{line})" in run("own:fails").one_line()


def test_wrong_symmetry_is_said_and_the_status_of_the_process(run, monkeypatch):
    module = sys.modules["jaxfuse.cli.symmetry"]
    params = {"in": np.zeros((3, 6)), "out": np.zeros((6, 2))}
    wrong = Symmetry.from_axes({"in": (None, "h")}, params)
    monkeypatch.setattr(module, "infer_symmetry", lambda *arguments: wrong)
    outcome = run("own:function", "--verify")
    assert outcome.status == 1
    assert "NOT a symmetry: h" in outcome.out
    assert "nothing is missed" not in outcome.out
