"""What a benchmark leaves behind: one JSON file with the results and the machine they are from."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import jaxfuse
from jaxfuse.atomic import write_text


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "jaxfuse": jaxfuse.__version__,
        **{name: version(name) for name in ("jax", "numpy", "scipy")},
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is there in full or not at all."""
    write_text(path, json.dumps({"machine": machine(), **content}, indent=1) + "\n")
