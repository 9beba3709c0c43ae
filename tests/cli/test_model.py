"""The bundled model with the options and the shapes that a checkpoint shows."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxfuse.cli.model import fit_model
from jaxfuse.models import MODEL_NAMES, create, functional
from tests.cli.command import as_torch


def checkpoint(name: str, image: tuple[int, int, int], **options) -> dict:
    """The tree of a model with zeros in it."""
    settings = {
        "input_shape": image,
        "classes": 7,
        "width": 0.1,
        "key": jax.random.key(0),
    } | options
    _, shapes = functional(nnx.eval_shape(lambda: create(name, **settings)))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


CASES = [
    *((name, (32, 32, 3), {}) for name in MODEL_NAMES),
    ("mlp", (2, 3, 3), {"bias": True, "norm": "batch"}),
    ("lenet", (8, 12, 1), {"bias": True}),
    ("lenet", (28, 28, 1), {"norm": "batch"}),
    ("vgg16", (8, 8, 1), {"norm": "batch"}),
    ("resnet18", (224, 224, 3), {}),
    ("convnext_tiny", (8, 8, 1), {}),
    ("convnext_tiny", (224, 224, 3), {}),
]
IDS = [
    f"{name}-{image[0]}-{'-'.join(map(str, options.values()))}" for name, image, options in CASES
]


@pytest.mark.parametrize(("name", "image", "options"), CASES, ids=IDS)
def test_model_has_the_shapes_of_the_checkpoint(name, image, options):
    params = checkpoint(name, image, **options)
    for tree in (
        (params, as_torch(params)) if name in ("lenet", "resnet20") else (as_torch(params),)
    ):
        model = fit_model(name, tree, width=0.1, norm=None)
        assert jax.tree.map(np.shape, model.template) == jax.tree.map(np.shape, params)
        assert model.input_shape[-1] == (image[-1] if name != "mlp" else 1)


@pytest.mark.parametrize("name", ["mlp", "resnet20"])
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_normalisation_without_statistics_is_named_by_the_user(name, norm):
    params = checkpoint(name, (8, 8, 1), norm=norm)
    with pytest.raises(ValueError, match="--norm layer or --norm group"):
        fit_model(name, params, width=0.1, norm=None)
    model = fit_model(name, params, width=0.1, norm=norm)
    assert jax.tree.map(np.shape, model.template) == jax.tree.map(np.shape, params)
    assert norm in str(model.apply_fn.graphdef).lower()


def test_shape_and_classes_of_the_data_come_first():
    params = checkpoint("resnet20", (32, 32, 3))
    model = fit_model("resnet20", params, width=0.1, norm=None, input_shape=(8, 8, 1), classes=3)
    assert model.input_shape == (8, 8, 1)
    assert model.template["conv1"]["kernel"].shape == (3, 3, 1, 2)
    assert model.template["linear"]["kernel"].shape == (6, 3)


@pytest.mark.parametrize(
    ("name", "of", "message"),
    [
        ("resnet20", "mlp", "is no resnet20: it has no kernels of the names conv1 and linear"),
        ("mlp", "resnet20", "is no mlp: leaves 'layer1/0/conv1/kernel' and"),
        ("resnet18", "resnet20", "no kernels of the names conv1 and fc"),
    ],
)
def test_checkpoint_of_another_model_is_refused(name, of, message):
    with pytest.raises(ValueError, match=message) as caught:
        fit_model(name, checkpoint(of, (8, 8, 1)), width=0.1, norm=None)
    assert "symmetry=" not in str(caught.value)
