"""Settings, augmentation and checkpoints."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models import MODEL_NAMES
from jaxfuse.training import (
    Checkpoints,
    TrainingConfig,
    recommended_config,
    shift_and_mirror,
)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"schedule": "linear"}, "schedule"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**setting)


@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "tiny_imagenet32"])
@pytest.mark.parametrize("model", [*MODEL_NAMES, "resnet20"])
def test_every_model_has_a_recommended_config(dataset, model):
    config = recommended_config(dataset, model)
    assert hash(config) == hash(recommended_config(dataset, model))
    assert not (config.augment and dataset != "cifar10" and dataset != "tiny_imagenet32")


def test_shifted_images_are_crops_of_the_padded_image(key):
    image = np.arange(1, 37, dtype=np.float32).reshape(6, 6, 1)
    crops = {
        crop.tobytes()
        for flipped in (False, True)
        for crop in _crops(np.pad(image, ((2, 2), (2, 2), (0, 0))), 6, flipped)
    }
    images = jnp.broadcast_to(image, (200, 6, 6, 1))
    for function in (shift_and_mirror, jax.jit(shift_and_mirror, static_argnames="pixels")):
        changed = np.asarray(function(images, key=key, pixels=2))
        seen = {one.tobytes() for one in changed}
        assert seen <= crops
        assert len(seen) > 30


def _crops(padded: np.ndarray, side: int, flipped: bool) -> list[np.ndarray]:
    starts = range(padded.shape[0] - side + 1)
    crops = [padded[i : i + side, j : j + side] for i in starts for j in starts]
    return [np.ascontiguousarray(crop[:, ::-1] if flipped else crop) for crop in crops]


def test_newest_checkpoint_is_restored_and_old_ones_go(tmp_path):
    like = {"w": jnp.zeros(2), "n": (jnp.int32(0),)}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(like) is None
        for step in (1, 2, 10):
            checkpoints.save(step, {"w": jnp.full(2, step), "n": (jnp.int32(step),)})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(like)
    assert restored is not None
    step, state = restored
    assert (step, int(state["n"][0]), state["w"].tolist()) == (10, 10, [10.0, 10.0])
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["10", "2"]


def test_checkpoints_of_another_run_are_refused(tmp_path):
    with Checkpoints(tmp_path, identity="one") as checkpoints:
        checkpoints.save(1, {"w": jnp.zeros(2)})
    with (
        Checkpoints(tmp_path, identity="two") as checkpoints,
        pytest.raises(ValueError, match="belong to a run with another"),
    ):
        checkpoints.restore({"w": jnp.zeros(3)})


def test_checkpoints_log_nothing_and_leave_logging_alone(tmp_path, caplog, capfd):
    logger = logging.getLogger("absl")
    before = (logger.level, list(logger.filters), list(logger.handlers))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.zeros(2)})
        checkpoints.restore({"w": jnp.zeros(2)})
    assert (logger.level, list(logger.filters), list(logger.handlers)) == before
    assert caplog.text == ""
    assert capfd.readouterr().err == ""
