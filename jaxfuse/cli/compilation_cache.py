"""Programs that an earlier command has compiled, kept in the user's cache folder."""

import os
from pathlib import Path

import jax

from jaxfuse.data.cache import default_cache_dir

OPT_OUT = "JAXFUSE_NO_CACHE"


def use_compilation_cache() -> Path | None:
    """Turn on JAX's persistent compilation cache, unless the user has decided otherwise.

    A folder that JAX was given (`JAX_COMPILATION_CACHE_DIR`) stays, and `JAXFUSE_NO_CACHE=1` turns
    this off.

    Returns:
        The folder that this call has chosen, or None.
    """
    if os.environ.get(OPT_OUT, "0") not in ("", "0"):
        return None
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return None
    folder = default_cache_dir() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # A cache is no duty.
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder
