"""The training loop: what it learns, resuming to the last bit, compile counts."""

import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfuse.models import MLP, create, functional
from jaxfuse.training import TrainingConfig, TrainingResult, evaluate, train
from tests.oracles import sgd

CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.05, weight_decay=1e-3)


@pytest.fixture
def examples() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 52).astype(np.int32)
    centres = generator.normal(size=(3, 4, 4, 1))
    images = centres[labels] + 0.3 * generator.normal(size=(52, 4, 4, 1))
    return images.astype(np.float32), labels


def mlp(seed: int = 0, norm=None) -> nnx.Module:
    return MLP(16, 3, hidden=(5,), norm=norm, rngs=nnx.Rngs(seed))


def assert_same(first: TrainingResult, second: TrainingResult) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_learns_and_leaves_the_module_alone(examples, key):
    module = mlp()
    apply_fn, before = functional(module)
    result = train(module, *examples, TrainingConfig(epochs=10, batch_size=8), key=key)
    assert result.history.loss.shape == (10,)
    assert result.history.loss[-1] < result.history.loss[0]
    assert evaluate(apply_fn, result.params, *examples).accuracy > 0.95
    jax.tree.map(np.testing.assert_array_equal, before, functional(module)[1])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_agrees_with_gradient_descent_in_numpy(examples, key, schedule):
    config = TrainingConfig(
        epochs=4,
        batch_size=52,
        learning_rate=0.1,
        momentum=0.8,
        weight_decay=0.01,
        schedule=schedule,
        step_epochs=2,
        warmup_epochs=1 if schedule == "cosine" else 0,
    )
    rates = {
        "constant": [0.1, 0.1, 0.1, 0.1],
        "cosine": [0.0, 0.1, 0.075, 0.025],
        "step": [0.1, 0.1, 0.05, 0.05],
    }[schedule]
    module = mlp()
    kernels = [layer["kernel"] for _, layer in sorted(functional(module)[1]["dense"].items())]
    expected, losses = sgd.full_batch(kernels, *examples, rates, momentum=0.8, decay=0.01)
    result = train(module, *examples, config, key=key)
    np.testing.assert_allclose(result.history.loss, losses, rtol=1e-4)
    for index, kernel in enumerate(expected):
        np.testing.assert_allclose(
            result.params["dense"][str(index)]["kernel"], kernel, rtol=1e-3, atol=1e-4
        )


def test_the_keys_decide(examples, key):
    first = train(mlp(), *examples, CONFIG, key=key)
    assert_same(first, train(mlp(), *examples, CONFIG, key=key))
    other = train(mlp(), *examples, CONFIG, key=jax.random.key(1))
    assert not np.array_equal(first.history.loss, other.history.loss)


def test_starts_from_given_params(examples, key):
    _, params = functional(mlp(seed=1))
    expected = train(mlp(seed=1), *examples, CONFIG, key=key)
    assert_same(expected, train(mlp(seed=0), *examples, CONFIG, key=key, params=params))
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_batch_statistics_are_updated(examples, key, name):
    module = create(name, input_shape=(4, 4, 1), classes=3, width=0.02, norm="batch", key=key)
    config = TrainingConfig(epochs=1, batch_size=8)
    params = train(module, *examples, config, key=key).params
    norms = params["norm" if name == "mlp" else "conv_norm"]
    assert (norms["0"]["var"] != 1).any()
    assert (norms["0"]["scale"] != 1).any()


def test_progress_reports_every_epoch(examples, key):
    calls = []
    result = train(mlp(), *examples, CONFIG, key=key, progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(6, 24), (12, 24), (18, 24), (24, 24)]
    np.testing.assert_allclose([call[2] for call in calls], result.history.loss, rtol=1e-5)


def test_modules_of_one_structure_share_one_program(examples, key):
    traces = 0

    class Counted(MLP):
        def __call__(self, x: jax.Array) -> jax.Array:
            nonlocal traces
            traces += 1
            return super().__call__(x)

    for seed in range(3):
        module = Counted(16, 3, hidden=(5,), rngs=nnx.Rngs(seed))
        train(module, *examples, CONFIG, key=jax.random.key(seed))
    assert traces == 1


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("checkpoint_every", [None, 5])
def test_stopped_run_resumes_to_the_last_bit(examples, key, tmp_path, norm, checkpoint_every):
    expected = train(mlp(norm=norm), *examples, CONFIG, key=key)

    class StopError(Exception):
        pass

    def resumable(stop_at: int) -> tuple[TrainingResult, list[int]]:
        steps = []

        def progress(step: int, total: int, loss: float) -> None:
            steps.append(step)
            if step >= stop_at:
                raise StopError

        options = {"checkpoint_dir": tmp_path, "checkpoint_every": checkpoint_every}
        return train(
            mlp(norm=norm), *examples, CONFIG, key=key, progress=progress, **options
        ), steps

    for stop_at in (6, 15):
        with pytest.raises(StopError):
            resumable(stop_at)
    result, steps = resumable(1000)
    assert steps[0] > 12
    assert_same(expected, result)
    again, steps = resumable(0)
    assert steps == []
    assert_same(expected, again)


def test_convolutions_resume_to_the_last_bit(examples, key, tmp_path):
    def module():
        return create("lenet", input_shape=(4, 4, 1), classes=3, width=0.1, key=key)

    def interrupt(step: int, total: int, loss: float) -> None:
        raise InterruptedError

    config = TrainingConfig(epochs=2, batch_size=16, augment=True)
    expected = train(module(), *examples, config, key=key)
    with pytest.raises(InterruptedError):
        train(module(), *examples, config, key=key, checkpoint_dir=tmp_path, progress=interrupt)
    assert_same(expected, train(module(), *examples, config, key=key, checkpoint_dir=tmp_path))


KILLED_RUN = """
    import sys
    import jax
    import numpy as np
    from jaxfuse.models import create, functional
    from jaxfuse.training import TrainingConfig, train

    images = np.random.default_rng(0).normal(size=(64, 4, 4, 1)).astype(np.float32)
    labels = np.arange(64, dtype=np.int32) % 3
    module = create("mlp", input_shape=(4, 4, 1), classes=3, width=0.02, key=jax.random.key(0))
    config = TrainingConfig(epochs=int(sys.argv[2]), batch_size=8)

    def progress(step, total, loss):
        print(step, flush=True)

    result = train(module, images, labels, config, key=jax.random.key(1),
                   checkpoint_dir=sys.argv[1] or None, checkpoint_every=3, progress=progress)
    np.save(sys.argv[3], result.params["dense"]["0"]["kernel"])
"""


def test_killed_process_resumes_to_the_last_bit(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(KILLED_RUN))

    def start(directory: str, output: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-W", "error", script, directory, "6", tmp_path / output],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    checkpoints = str(tmp_path / "checkpoints")
    with start(checkpoints, "killed.npy") as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 20:
            pass
        # Anywhere in the next steps or the next checkpoint.
        time.sleep(0.05)
        process.kill()
    assert not (tmp_path / "killed.npy").exists()
    for directory, output in ((checkpoints, "resumed.npy"), ("", "whole.npy")):
        with start(directory, output) as process:
            stdout, stderr = process.communicate(timeout=300)
            assert process.returncode == 0, stderr
            assert stderr == ""
            assert (int(stdout.split()[0]) > 18) == (directory != "")
    np.testing.assert_array_equal(
        np.load(tmp_path / "resumed.npy"), np.load(tmp_path / "whole.npy")
    )


def test_checkpoints_of_another_run_are_refused(examples, key, tmp_path):
    train(mlp(), *examples, CONFIG, key=key, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="belong to a run with another"):
        train(mlp(), *examples, CONFIG, key=jax.random.key(5), checkpoint_dir=tmp_path)
    for hidden in ((6,), (5, 5), ()):
        other = MLP(16, 3, hidden=hidden, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match="belong to a run with another"):
            train(other, *examples, CONFIG, key=key, checkpoint_dir=tmp_path)


def test_diverging_run_is_an_error(examples, key):
    config = TrainingConfig(epochs=3, batch_size=8, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train(mlp(), *examples, config, key=key)


def test_fewer_examples_than_a_batch_are_one_batch(examples, key):
    images, labels = examples
    result = train(mlp(), images[:5], labels[:5], TrainingConfig(epochs=2), key=key)
    assert jnp.isfinite(result.history.loss).all()


def test_bad_arguments_are_refused(examples, key):
    images, labels = examples
    with pytest.raises(ValueError, match="labels must be integers"):
        train(mlp(), images, labels[:-1], key=key)
    with pytest.raises(ValueError, match="labels must be integers"):
        train(mlp(), images, labels.astype(np.float32), key=key)
    with pytest.raises(ValueError, match="no examples"):
        train(mlp(), images[:0], labels[:0], key=key)
    with pytest.raises(ValueError, match="checkpoint_every"):
        train(mlp(), images, labels, key=key, checkpoint_dir="unused", checkpoint_every=0)
