"""Keep where long work stands beside its output, and go on from there."""

import hashlib
import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jaxfuse.atomic import replacing
from jaxfuse.checkpoints.source import Source
from jaxfuse.streaming.ascent import State
from jaxfuse.symmetry.spec import Symmetry


class Progress:
    """A file with the state of an ascent, for one pair of checkpoints and one set of options."""

    def __init__(self, output: Path, fingerprint: str) -> None:
        self.path = output.with_name(f".{output.name}-progress.npz")
        self._fingerprint = fingerprint

    def save(self, state: State) -> None:
        """Write the state, whole or not at all."""
        entries = asdict(state)
        permutations = entries.pop("permutations")
        entries["known"] = sorted(entries["known"])
        text = json.dumps({"fingerprint": self._fingerprint, **entries})
        arrays = {f"node:{node}": columns for node, columns in permutations.items()}
        with replacing(self.path) as file:
            np.savez(file, state=np.array(text), **arrays)

    def load(self) -> State | None:
        """Return the state of the same work, if there is one."""
        try:
            with self.path.open("rb") as file, np.load(file) as held:
                entries = json.loads(str(held["state"]))
                if entries.pop("fingerprint") != self._fingerprint:
                    return None
                permutations = {
                    name.removeprefix("node:"): held[name]
                    for name in held.files
                    if name.startswith("node:")
                }
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None  # none, or damaged: begin again
        return State(permutations, frozenset(entries.pop("known")), **entries)

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def fingerprint(sources: tuple[Source, Source], symmetry: Symmetry, options: object) -> str:
    """Return a text that is another one if files, symmetry or options are.

    Files are known by path, size and time of change, and their tensors by name, shape and dtype.
    """
    files = []
    for source in sources:
        for file in source.files:
            status = os.stat(file)
            files.append([str(file.absolute()), status.st_size, status.st_mtime_ns])
        files.append([repr(leaf) for leaf in source.leaves.items()])
    text = json.dumps([files, symmetry.to_json(), repr(options)])
    return hashlib.sha256(text.encode()).hexdigest()
