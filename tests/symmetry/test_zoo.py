"""Every bundled model, and its doubles in other libraries: found, proved both ways, recovered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.doubles import EQUINOX, LINEN, PLAIN
from jaxfuse.affinity.terms import list_terms
from jaxfuse.align import align_params
from jaxfuse.models import functional
from jaxfuse.models.zoo import ZOO
from jaxfuse.symmetry import Symmetry, infer_symmetry, permute, random_permutations
from jaxfuse.symmetry.tree import is_weight

DOUBLES = {
    f"{kind}-{name}": double
    for kind, table in (("linen", LINEN), ("plain", PLAIN), ("equinox", EQUINOX))
    for name, double in table.items()
}


def build(name: str):
    if name in DOUBLES:
        return DOUBLES[name].make(jax.random.key(0))
    example = ZOO[name]
    return *functional(example.build(nnx.Rngs(0))), example.inputs(jax.random.key(1))


# resnet20_pad with more of the same blocks, which takes as many times longer.
DEEPER = ("resnet32_pad", "resnet56_pad")


@pytest.mark.parametrize("name", [*(name for name in ZOO if name not in DEEPER), *DOUBLES])
def test_symmetry_is_right_and_complete(name, key):
    apply_fn, params, inputs = build(name)
    symmetry = infer_symmetry(apply_fn, params, *inputs)
    proof = symmetry.verify(apply_fn, params, *inputs, key=key)
    assert symmetry.sizes
    assert proof.holds
    assert not proof.movable
    assert not proof.unknown
    assert symmetry.coverage(params) > 0.95
    assert Symmetry.from_json(symmetry.to_json()) == symmetry
    assert list(list_terms(symmetry))


@pytest.mark.parametrize("name", ["gcn", "gru"])
def test_permuted_copy_comes_back(name, key):
    apply_fn, params, inputs = build(name)
    symmetry = infer_symmetry(apply_fn, params, *inputs)
    copy = permute(params, symmetry, random_permutations(symmetry, key))
    found = align_params(params, copy, symmetry=symmetry, method="coordinate_ascent")
    for original, back in zip(jax.tree.leaves(params), jax.tree.leaves(found.params), strict=True):
        if is_weight(original):
            np.testing.assert_array_equal(original, back)
    outputs = apply_fn(found.params, *inputs)
    np.testing.assert_allclose(outputs, apply_fn(params, *inputs), rtol=1e-5, atol=1e-5)


def published(name: str):
    example = ZOO[name]
    module = nnx.eval_shape(lambda: example.published(nnx.Rngs(0)))
    return module, jax.eval_shape(example.published_inputs or example.inputs, jax.random.key(0))


@pytest.mark.parametrize("name", ["resnet50", "llama", "gpt2_scan"])
def test_shapes_suffice_at_the_published_size(name):
    module, inputs = published(name)
    symmetry = infer_symmetry(module, *inputs)
    assert symmetry.sizes
    assert max(symmetry.groups.values()) >= 768
    assert symmetry.coverage(nnx.state(module)) > 0.98


def test_state_of_a_module_has_the_paths_of_its_symmetry(key):
    module = ZOO["vit"].build(nnx.Rngs(0))
    symmetry = infer_symmetry(module, *ZOO["vit"].inputs(key))
    symmetry.check(nnx.state(module))
    moved = permute(nnx.state(module), symmetry, random_permutations(symmetry, key))
    inputs = ZOO["vit"].inputs(key)
    before = module(*inputs)
    nnx.update(module, moved)
    assert jnp.allclose(module(*inputs), before, atol=1e-5)
