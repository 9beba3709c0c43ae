"""Aligning checkpoints on disk: the matching, the budget, the files, and going on after a stop."""

import functools
import itertools
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from jaxfuse import (
    CoordinateAscent,
    Status,
    Symmetry,
    align_checkpoints,
    align_params,
    infer_chain,
    infer_symmetry,
    needed_memory,
    permute,
)
from jaxfuse.bench.memory import alone
from jaxfuse.checkpoints import read, write
from jaxfuse.checkpoints.source import open_source
from jaxfuse.models import GPT2, Llama, functional
from jaxfuse.symmetry import random_permutations
from jaxfuse.symmetry.tree import named_leaves
from tests.checkpoints.sharded import write_sharded
from tests.symmetry import nested

WIDTHS = (12, 40, 36, 30, 5)


def chain(seed: int = 0, widths=WIDTHS, dtype=np.float32) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        f"fc{index}.weight": (generator.normal(size=(n, m)) / np.sqrt(m)).astype(dtype)
        for index, (m, n) in enumerate(itertools.pairwise(widths))
    }


def planted(params, symmetry: Symmetry, noise: float = 0.3, seed: int = 0):
    """Return the network in another order, with noise in proportion to each tensor's spread."""
    generator = np.random.default_rng(1000 + seed)
    order = random_permutations(symmetry, jax.random.key(seed))

    def stir(leaf):
        leaf = np.asarray(leaf)
        spread = noise * np.std(leaf.astype(np.float32))
        return (leaf + spread * generator.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(stir, permute(params, symmetry, order)), order


def language_model(kind: str):
    """Return the weights of a small model, and its symmetry traced on shapes."""
    if kind == "gpt2":
        build = functools.partial(GPT2, 30, context=8, width=24, layers=2, heads=4)
    else:
        sizes = {"width": 24, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 36}
        build = functools.partial(Llama, 30, **sizes)
    apply_fn, shapes = functional(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    symmetry = infer_symmetry(apply_fn, shapes, jax.ShapeDtypeStruct((2, 5), jnp.int32))
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes)
    return params, symmetry


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A chain and a noisy copy of it in another order, in the working folder."""
    monkeypatch.chdir(tmp_path)
    first = chain()
    second, order = planted(first, infer_chain(first))
    write("a.safetensors", first)
    write("b.safetensors", second)
    return first, second, order


def assert_written(output, params, symmetry, found) -> None:
    """The output is B in the new order, to the last bit."""
    source, wanted = (
        open_source(output),
        named_leaves(permute(params, symmetry, found.permutations)),
    )
    assert set(source.leaves) == set(wanted)
    for name, leaf in wanted.items():
        got = source.read(name)
        assert got.dtype == leaf.dtype
        np.testing.assert_array_equal(got, leaf)


def test_finds_the_planted_order(pair):
    first, second, order = pair
    found = align_checkpoints("a.safetensors", "b.safetensors", "out.safetensors", memory=0.1)
    for group, columns in order.items():
        np.testing.assert_array_equal(found.permutations[group], np.argsort(columns))
    assert_written("out.safetensors", second, infer_chain(first), found)
    before, after = (
        sum(np.vdot(np.float64(first[name]), params[name]) for name in first)
        for params in (second, read("out.safetensors"))
    )
    np.testing.assert_allclose((found.before, found.objective), (before, after), rtol=1e-4)
    assert found.status == Status.CONVERGED
    assert found.peak <= 0.1 * 2**20
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors", "out.safetensors"]


@pytest.mark.parametrize(
    "name",
    ["chain", "llama", "gpt2", "recurrent", "block_recurrent", "stacked_heads", "three_levels"],
)
def test_same_matching_as_in_memory(name, tmp_path):
    """From the identity it is coordinate ascent in memory, with the least memory and with much."""
    if name in nested.NETWORKS:
        shapes, symmetry = nested.NETWORKS[name]()
        params = nested.draw(shapes, 0)
    elif name == "chain":
        params = chain()
        symmetry = infer_chain(params)
    else:
        params, symmetry = language_model(name)
    other, _ = planted(params, symmetry, noise=1.0)
    paths = [tmp_path / f"{letter}.safetensors" for letter in "ab"]
    write(paths[0], params)
    write(paths[1], other)
    wanted = align_params(params, other, symmetry=symmetry, method=CoordinateAscent())
    least = needed_memory(symmetry, params)
    run = functools.partial(align_checkpoints, *paths, symmetry=symmetry)
    for number, memory in enumerate((least, 64.0)):
        output = tmp_path / f"out{number}.safetensors"
        found = run(output, memory=memory, start="identity")
        for group, columns in wanted.permutations.items():
            np.testing.assert_array_equal(found.permutations[group], columns)
        np.testing.assert_allclose(found.objective, wanted.objective, rtol=1e-5)
        assert found.status == Status(int(wanted.status))
        assert found.peak <= memory * 2**20
        assert_written(output, other, symmetry, found)
    with pytest.raises(ValueError, match=r"MB is too little: .* Raise memory"):
        run(tmp_path / "none.safetensors", memory=0.99 * least)
    assert not (tmp_path / "none.safetensors").exists()


def test_known_start_survives_more_noise(tmp_path):
    """A convolutional network under noise of 2.5 times the spread of its weights."""
    shapes = {"conv0": (3, 3, 3, 16), "conv1": (3, 3, 16, 24), "d": (96, 40), "e": (40, 10)}
    params = {f"{layer}.kernel": leaf for layer, leaf in nested.draw(shapes, 0).items()}
    symmetry = infer_chain(params)
    other, order = planted(params, symmetry, noise=2.5)
    write(tmp_path / "a.safetensors", params)
    write(tmp_path / "b.safetensors", other)
    recovered = {}
    for start in ("known", "identity"):
        found = align_checkpoints(
            tmp_path / "a.safetensors",
            tmp_path / "b.safetensors",
            tmp_path / f"{start}.safetensors",
            start=start,
        )
        recovered[start] = all(
            np.array_equal(found.permutations[group], np.argsort(columns))
            for group, columns in order.items()
        )
    assert recovered == {"known": True, "identity": False}


def test_budget_of_a_tenth(tmp_path):
    """Two networks of 13 MB under 1.3 MB."""
    params = chain(widths=(12_000, 128, 128, 12_000))
    symmetry = infer_chain(params)
    other, order = planted(params, symmetry)
    size = sum(leaf.nbytes for leaf in params.values())
    assert size > 12e6
    write(tmp_path / "a.safetensors", params)
    write_sharded(tmp_path / "b", other, 2)
    found = align_checkpoints(
        tmp_path / "a.safetensors", tmp_path / "b", tmp_path / "out", memory=1.2
    )
    assert found.peak <= 1.2 * 2**20
    assert found.bytes_read > 2 * size
    for group, columns in order.items():
        np.testing.assert_array_equal(found.permutations[group], np.argsort(columns))
    assert_written(tmp_path / "out", other, symmetry, found)


def grown(folder: str) -> float:
    """Return by how much an alignment raises the peak of the process, after a small one."""
    from jaxfuse.bench.memory import host_peak

    for letter, widths in (("small", (64, 16, 64)), ("large", (60_000, 256, 60_000))):
        params = chain(widths=widths)
        write(f"{folder}/{letter}.safetensors", params)
    del params
    run = functools.partial(align_checkpoints, memory=8.0)
    run(*[f"{folder}/small.safetensors"] * 2, f"{folder}/small-out.safetensors")
    before = host_peak()
    run(*[f"{folder}/large.safetensors"] * 2, f"{folder}/large-out.safetensors")
    return host_peak() - before


def test_process_grows_less_than_one_network(tmp_path):
    """The peak of the process counts, after that of making the files of 117 MiB."""
    assert alone(grown, str(tmp_path)) < 117


def test_what_fits_is_read_once(pair):
    found = align_checkpoints("a.safetensors", "b.safetensors", "out.safetensors")
    both = [open_source(f"{letter}.safetensors") for letter in "ab"]
    size = sum(leaf.nbytes for source in both for leaf in read(source.path).values())
    assert found.bytes_read == size


@pytest.mark.parametrize("form", ["orbax", "sharded"])
def test_other_forms_of_checkpoints(pair, form):
    first, second, _ = pair
    wanted = align_checkpoints("a.safetensors", "b.safetensors", "wanted.safetensors")
    for name, params in (("a", first), ("b", second)):
        if form == "orbax":
            write(name, params)
        else:
            write_sharded(open_source("a.safetensors").path.absolute().parent / name, params, 2)
    for pair_of in (("a", "b"), ("a", "b.safetensors"), ("a.safetensors", "b")):
        found = align_checkpoints(*pair_of, "out.safetensors", memory=1.0, force=True)
        for group, columns in wanted.permutations.items():
            np.testing.assert_array_equal(found.permutations[group], columns)
        assert found.peak <= 2**20
        assert_written("out.safetensors", second, infer_chain(first), found)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_dtypes_are_kept(dtype, tmp_path):
    params = {**chain(dtype=dtype), "steps": np.array(7), "table": np.arange(6).reshape(2, 3)}
    symmetry = infer_chain(params)
    other, order = planted({name: params[name] for name in chain()}, symmetry, noise=0.1)
    other |= {"steps": np.array(9), "table": np.arange(6, 12).reshape(2, 3)}
    write(tmp_path / "a.safetensors", params)
    write(tmp_path / "b.safetensors", other)
    out = tmp_path / "out.safetensors"
    found = align_checkpoints(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", out, memory=0.1
    )
    for group, columns in order.items():
        np.testing.assert_array_equal(found.permutations[group], np.argsort(columns))
    assert_written(out, other, symmetry, found)


def test_aligned_already(pair):
    found = align_checkpoints("a.safetensors", "a.safetensors", "out.safetensors")
    assert found.status == Status.ALREADY_ALIGNED
    assert found.objective == found.before
    assert all(np.array_equal(p, np.arange(len(p))) for p in found.permutations.values())


def test_nothing_to_permute(pair):
    first = pair[0]
    found = align_checkpoints(
        "a.safetensors", "b.safetensors", "out.safetensors", symmetry=Symmetry((), ())
    )
    assert (found.permutations, found.status) == ({}, Status.ALREADY_ALIGNED)
    assert set(read("out.safetensors")) == set(first)


def test_stopped_at_the_limit(pair):
    found = align_checkpoints("a.safetensors", "b.safetensors", "out.safetensors", max_sweeps=1)
    assert (found.status, found.sweeps) == (Status.NOT_CONVERGED, 1)
    assert found.objective > found.before


class Stop(Exception):
    """What a kill is here."""


def stop_at(step: str, share: float, told: list):
    def progress(name: str, done: float) -> None:
        told.append((name, done))
        if name == step and done >= share:
            raise Stop

    return progress


@pytest.mark.parametrize(
    ("step", "share", "memory"),
    [
        ("sweep 1", 1 / 3, 0.1),
        ("sweep 1", 1.0, 1.0),
        ("sweep 2", 2 / 3, 0.1),
        ("writing", 0.5, 0.1),
    ],
)
@pytest.mark.parametrize("start", ["known", "identity"])
def test_goes_on_after_a_stop(pair, step, share, memory, start):
    run = functools.partial(align_checkpoints, "a.safetensors", "b.safetensors", start=start)
    every: list = []
    wanted = run("wanted.safetensors", memory=0.1, progress=lambda *step: every.append(step))
    first: list = []
    with pytest.raises(Stop):
        run("out.safetensors", memory=0.1, progress=stop_at(step, share, first))
    assert not os.path.exists("out.safetensors")
    assert os.path.exists(".out.safetensors-progress.npz")
    second: list = []
    found = run("out.safetensors", memory=memory, progress=lambda *step: second.append(step))
    # Nothing but the writing is done twice.
    ascent = [told for told in every if told[0] != "writing"]
    assert [told for told in first + second if told[0] != "writing"] == ascent
    for group, columns in wanted.permutations.items():
        np.testing.assert_array_equal(found.permutations[group], columns)
    assert found.before == wanted.before
    assert found.sweeps == wanted.sweeps
    got, expected = read("out.safetensors"), read("wanted.safetensors")
    assert all(np.array_equal(got[name], expected[name]) for name in expected)
    assert not [name for name in os.listdir() if name.startswith(".")]


@pytest.mark.parametrize("change", ["file", "option", "symmetry", "damage"])
def test_begins_again_where_something_changed(pair, change):
    first, _, _ = pair
    run = functools.partial(align_checkpoints, "a.safetensors", "b.safetensors", "out.safetensors")
    with pytest.raises(Stop):
        run(progress=stop_at("sweep 1", 1.0, []))
    options = {}
    if change == "file":
        write("b.safetensors", planted(first, infer_chain(first), seed=5)[0], force=True)
    elif change == "option":
        options = {"start": "identity"}
    elif change == "symmetry":
        options = {"symmetry": infer_chain(first).pin("fc1")}
    else:
        with open(".out.safetensors-progress.npz", "r+b") as file:
            file.truncate(100)
    told: list = []
    run(**options, progress=lambda name, _: told.append(name))
    assert told[0] == "reading"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("letter", ["a", "b"])
def test_values_that_are_no_numbers(pair, letter, value):
    params = read(f"{letter}.safetensors")
    params["fc2.weight"] = params["fc2.weight"].copy()
    params["fc2.weight"][3, 4] = value
    write(f"{letter}.safetensors", params, force=True)
    message = rf"leaf 'fc2.weight' of {letter}.safetensors holds NaN or infinity"
    with pytest.raises(ValueError, match=message):
        align_checkpoints("a.safetensors", "b.safetensors", "out.safetensors", memory=0.1)
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors"]


def test_networks_that_do_not_fit_each_other(pair):
    first, _, _ = pair
    write("wide.safetensors", chain(widths=(12, 41, 36, 30, 5)))
    message = r"leaf 'fc0.weight' has shape \(40, 12\) in a.safetensors and \(41, 12\) in wide"
    with pytest.raises(ValueError, match=message):
        align_checkpoints("a.safetensors", "wide.safetensors", "out.safetensors")
    write("more.safetensors", {**first, "other": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"leaf 'other' is in more.safetensors and not in a"):
        align_checkpoints("a.safetensors", "more.safetensors", "out.safetensors")


@pytest.mark.usefixtures("pair")
def test_refusals_before_any_work():
    run = functools.partial(align_checkpoints, "a.safetensors", "b.safetensors")
    with pytest.raises(FileExistsError, match=r"b.safetensors exists"):
        run("b.safetensors")
    with pytest.raises(ValueError, match=r"can't write out: end it in .safetensors"):
        run("out")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at c.safetensors"):
        align_checkpoints("a.safetensors", "c.safetensors", "out.safetensors")
    for options in ({"start": "random"}, {"max_sweeps": -1}, {"memory": 0.0}):
        with pytest.raises(ValueError, match="start is 'known' or 'identity'"):
            run("out.safetensors", **options)
    other = Symmetry.from_axes(
        {"w": (None, "h"), "v": ("h", None)}, {"w": np.ones((2, 3)), "v": np.ones((3, 2))}
    )
    with pytest.raises(ValueError, match="the symmetry speaks of leaf 'w'"):
        run("out.safetensors", symmetry=other)
    message = r"memory=0.02 MB is too little: the scores .* of 'fc0' take 0.03052 MB"
    with pytest.raises(ValueError, match=message):
        run("out.safetensors", memory=0.02)
    write("block.safetensors", {f"layer1.{k}.weight": np.ones((3, 3)) for k in ("a", "b")})
    with pytest.raises(ValueError, match="pass symmetry="):
        align_checkpoints("block.safetensors", "block.safetensors", "out.safetensors")
    assert not os.path.exists("out.safetensors")


def test_memory_that_two_models_of_seven_billion_weights_need():
    """Llama 7B, on shapes alone: its largest group are the 11,008 hidden units of an MLP."""
    sizes = {"width": 4096, "layers": 32, "heads": 32, "kv_heads": 32, "hidden": 11_008}
    build = functools.partial(Llama, 32_000, **sizes)
    apply_fn, params = functional(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    symmetry = infer_symmetry(apply_fn, params, jax.ShapeDtypeStruct((1, 8), jnp.int32))
    half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), params)
    assert sum(leaf.size for leaf in jax.tree.leaves(half)) == 6_738_415_616
    assert needed_memory(symmetry, half) == 20 * 11_008**2 / 2**20 == 2311.25
