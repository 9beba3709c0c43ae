"""`jaxfuse align`: bring one checkpoint into the order of another, within a budget of memory."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console

from jaxfuse.checkpoints.source import open_source
from jaxfuse.cli.model import fit_model
from jaxfuse.cli.options import refuse_given
from jaxfuse.cli.progress import bars
from jaxfuse.models import MODEL_NAMES
from jaxfuse.models.create import Width
from jaxfuse.streaming import align_checkpoints
from jaxfuse.symmetry import Symmetry, infer_chain, infer_symmetry
from jaxfuse.symmetry.chain.layers import REMEDY

if TYPE_CHECKING:
    ModelName = str
else:  # the command line takes the choices from the table
    ModelName = Literal[MODEL_NAMES]
_MEGABYTES = {"": 1, "M": 1, "G": 2**10, "T": 2**20}


@dataclass(frozen=True)
class Align:
    """Reorder the units of a network on disk to match another, however large the two are.

    Tensors are read in pieces, so that neither network is ever held. A call that is cut off goes on
    where it was when it is made again.
    """

    reference: tyro.conf.Positional[Path]
    """A .safetensors file, a folder of several with model.safetensors.index.json, or an orbax
    folder."""
    network: tyro.conf.Positional[Path]
    """The network to reorder, likewise, with tensors of the same names and shapes."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where it goes: a .safetensors file; or a folder, if the network is a folder of several."""
    memory: str = "4GB"
    """What arrays may take: a number with MB or GB."""
    symmetry: Path | None = None
    """Which units may be permuted, in JSON, as `jaxfuse symmetry MODEL -o FILE` writes it, over the
    names in the checkpoints."""
    model: ModelName | None = None
    """Bundled architecture whose symmetry is traced instead. Without either the networks are read
    as feed-forward chains."""
    width: Width = 1.0
    """Multiplier of the model's hidden widths; for vgg11 also half, double or quad."""
    norm: Literal["batch", "layer", "group"] | None = None
    """Normalisation of the model; by default read off the checkpoint."""
    start: Literal["known", "identity"] = "known"
    """Match each group first by what is matched already, or take the others to be in order."""
    max_sweeps: int = 100
    """Most passes over all groups."""
    force: bool = False
    """Replace the output if it exists and is such a checkpoint."""

    def run(self, console: Console) -> None:
        """Align, write, and print what was found."""
        memory = _parse_memory(self.memory)
        if self.model is None:
            refuse_given(self, ("width", "norm"), "needs --model")
        elif self.symmetry is not None:
            raise ValueError("give --symmetry or --model, not both")
        symmetry = self._symmetry()
        with bars(console) as progress:
            found = align_checkpoints(
                self.reference,
                self.network,
                self.output,
                symmetry=symmetry,
                memory=memory,
                start=self.start,
                max_sweeps=self.max_sweeps,
                progress=progress.update,
                force=self.force,
            )
        console.print(
            f"Objective {found.before:.6g} before, {found.objective:.6g} after "
            f"{found.sweeps} {'sweep' if found.sweeps == 1 else 'sweeps'}: {found.status.message}",
            soft_wrap=True,
        )
        console.print(
            f"Read {found.bytes_read / 2**20:.1f} MB and held {found.peak / 2**20:.1f} MB at most"
        )
        console.print(f"Wrote {self.output}", soft_wrap=True)

    def _symmetry(self) -> Symmetry:
        if self.symmetry is not None:
            return Symmetry.from_json(self.symmetry.read_text())
        leaves = open_source(self.reference).leaves
        if self.model is None:
            try:
                return infer_chain(leaves)
            except ValueError as error:
                reason = str(error).removesuffix(REMEDY).strip()
                raise ValueError(
                    f"{reason} Give its symmetry with --symmetry, or its architecture with --model"
                ) from None
        model = fit_model(self.model, leaves, width=self.width, norm=self.norm)
        images = jax.ShapeDtypeStruct((2, *model.input_shape), jnp.float32)
        symmetry = infer_symmetry(model.apply_fn, model.template, images)
        try:
            symmetry.check(leaves)
        except ValueError:
            raise ValueError(
                f"the tensors of {self.reference} are not named and laid out as those of "
                f"jaxfuse's {self.model}: give the symmetry over their own names with --symmetry"
            ) from None
        return symmetry


def _parse_memory(text: str) -> float:
    """Return megabytes."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([MGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ValueError(f"--memory {text!r} is no size: write a number with MB or GB, as in 2GB")
    return float(found[1]) * _MEGABYTES[found[2].upper()]
