"""What a benchmark leaves behind: one JSON file with the results and the machine they are from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxfuse.atomic import write_text
from jaxfuse.bench.record import machine


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is there in full or not at all."""
    write_text(path, json.dumps({"machine": machine(), **content}, indent=1) + "\n")
