"""Checkpoints of a training run, written by Orbax."""

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.quiet import only_errors

# Orbax takes seconds to import and announces itself: it is imported when a run is checkpointed.


class Checkpoints:
    """The checkpoints of one training run in one folder.

    A checkpoint appears under its final name once it is written in full, so a run that is killed
    while it writes keeps the one before.

    Args:
        directory: The folder; made where it does not exist.
        identity: Word that names the run. Checkpoints of a run of another name are refused.
        keep: How many of the newest checkpoints are kept.

    Examples:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        ...     checkpoints.save(7, {"w": jnp.arange(3.0)})
        ...     step, state = checkpoints.restore({"w": jnp.zeros(3)})
        >>> step, state["w"].tolist()
        (7, [0.0, 1.0, 2.0])
    """

    def __init__(self, directory: str | os.PathLike[str], *, identity: str = "", keep: int = 2):
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            # The training loop donates its buffers: a write must be over before the next step.
            enable_async_checkpointing=False,
        )
        self._directory = Path(directory).absolute()
        self._identity = identity
        with only_errors("absl"):
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, step: int, state: Any) -> None:
        """Write a checkpoint.

        Args:
            step: Number of steps done.
            state: Pytree of arrays.
        """
        import orbax.checkpoint as ocp

        run = ocp.args.JsonSave({"identity": self._identity})
        with only_errors("absl"):
            self._manager.save(
                step,
                args=ocp.args.Composite(run=run, state=ocp.args.StandardSave(state)),
                force=True,
            )
            self._manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Read the newest checkpoint.

        Args:
            like: Pytree of arrays with the structure, shapes and dtypes that were saved.

        Returns:
            The number of steps done and the state, or None where there is no checkpoint.

        Raises:
            ValueError: The checkpoint belongs to another run.
        """
        import orbax.checkpoint as ocp

        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        # The identity comes first: reading arrays of other shapes leaves Orbax in disorder.
        run_args = ocp.args.Composite(run=ocp.args.JsonRestore())
        state_args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        with only_errors("absl"):
            if self._manager.restore(step, args=run_args)["run"]["identity"] != self._identity:
                raise ValueError(
                    f"the checkpoints in {self._directory} belong to a run with another config, "
                    "key, model or data: choose another folder or remove this one"
                )
            return step, self._manager.restore(step, args=state_args)["state"]

    def close(self) -> None:
        """Release the threads that Orbax holds."""
        with only_errors("absl"):
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def fingerprint(settings: str, arrays: Any) -> str:
    """Digest everything that decides how a run goes, as its `identity`.

    Args:
        settings: in words, the same in every process.
        arrays: pytree of arrays and keys.

    Returns:
        Hexadecimal digits, the same for the same settings, dtypes, shapes and bits.

    Examples:
        >>> fingerprint("sgd", [jnp.arange(3)]) == fingerprint("sgd", [jnp.arange(4)])
        False
    """
    digest = hashlib.sha256(settings.encode())
    for leaf in jax.tree.leaves(arrays):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()
