"""Strict JAX settings for every test."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# Linux lets a process map 65,530 regions by default; each compiled program takes several, and the
# compiler dies of a segmentation fault where none is left.
_MAPS = 25_000


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop the compiled programs of earlier modules before the process runs out of memory maps."""
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > _MAPS:
        jax.clear_caches()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
