"""A folder of safetensors files with an index, as Hugging Face writes large models."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from jaxfuse.checkpoints.source import INDEX


def write_sharded(folder: Path, arrays: dict[str, np.ndarray], count: int) -> None:
    """Write arrays to `count` files."""
    folder.mkdir()
    names = list(arrays)
    places = {}
    for number in range(count):
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        own = {name: arrays[name] for name in names[number::count]}
        safetensors.numpy.save_file(own, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(own, file)
    size = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))
