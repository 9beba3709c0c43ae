"""`jaxfuse symmetry`: print what may be permuted in a model."""

import difflib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from flax import nnx
from rich.console import Console

from jaxfuse.atomic import write_text
from jaxfuse.cli.factory import call_factory, in_one_line
from jaxfuse.cli.options import refuse_given
from jaxfuse.models.zoo import ZOO
from jaxfuse.symmetry import Verification, infer_symmetry
from jaxfuse.symmetry.trace.call import as_function
from jaxfuse.symmetry.tree import is_weight, named_leaves


@dataclass(frozen=True)
class SymmetryTable:
    """Trace a model and print the groups of units that may be permuted, and what is pinned."""

    model: tyro.conf.Positional[str]
    """A bundled model, "list" for their names, or package.module:function or file.py:function of
    your own, where the function returns (module, *inputs) or (apply_fn, params, *inputs)."""
    published: bool = False
    """Take the bundled model at the size of its paper; it is traced on shapes, so it costs no
    memory. By default a small one, which --verify can run."""
    verify: bool = False
    """Prove the table on random numbers: permute every group, and see that nothing else may be."""
    seed: int = 0
    """Seed of the weights, inputs and permutations."""
    json: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File for the symmetry in JSON, which `jaxfuse.Symmetry.from_json` reads."""

    def run(self, console: Console) -> None:
        """Print the table."""
        self._check()
        if self.model == "list":
            for name in ZOO:
                console.print(name)
            return
        apply_fn, params, inputs = self._call()
        with _told_warnings(console), in_one_line(f"tracing {self.model} failed"):
            symmetry = infer_symmetry(apply_fn, params, *inputs)
        console.print(symmetry.table(width=console.width), soft_wrap=True, highlight=False)
        console.print(f"{symmetry.coverage(params):.1%} of the parameters lie on a group")
        if self.json is not None:
            write_text(self.json, symmetry.to_json() + "\n")
            console.print(f"Wrote {self.json}", soft_wrap=True)
        if self.verify:
            with in_one_line(f"running {self.model} failed"):
                proof = symmetry.verify(apply_fn, params, *inputs, key=jax.random.key(self.seed))
            console.print(_verdict(proof, inputs), soft_wrap=True)
            if not (proof.holds and proof.complete):
                sys.exit(1)

    def _check(self) -> None:
        """Refuse what can't work before anything slow begins."""
        if self.model == "list":
            refuse_given(self, ("published", "verify", "seed", "json"), "has no effect on the list")
        elif ":" in self.model:
            refuse_given(self, ("published",), "is for bundled models")
        elif self.model not in ZOO:
            similar = difflib.get_close_matches(self.model.lower(), ZOO, n=3, cutoff=0.4)
            raise ValueError(
                f"unknown model {self.model!r}"
                + (f", did you mean {' or '.join(similar)}?" if similar else ":")
                + " `jaxfuse symmetry list` prints the bundled ones; a function of your own is "
                "named as package.module:function or file.py:function"
            )
        if self.published and self.verify:
            raise ValueError("--verify runs the model, --published only looks at shapes: give one")
        if self.json is not None and self.json.is_dir():
            raise ValueError(f"{self.json} is a folder: name a file in it")

    def _call(self) -> tuple[Any, Any, tuple[Any, ...]]:
        """Return the function that is traced, its parameters and its inputs."""
        if ":" in self.model:
            return as_function(*call_factory(self.model))
        example = ZOO[self.model]
        build, inputs = example.build, example.inputs
        if self.published:
            build = example.published or build
            inputs = example.published_inputs or inputs
            module = nnx.eval_shape(lambda: build(nnx.Rngs(self.seed)))
        else:
            module = build(nnx.Rngs(self.seed))
        return as_function(module, *inputs(jax.random.key(self.seed)))


@contextmanager
def _told_warnings(console: Console) -> Iterator[None]:
    """Print warnings as lines of the command, without the place in the library."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in told):
        console.print(f"Warning: {message}", soft_wrap=True)


def _verdict(proof: Verification, inputs: tuple[Any, ...]) -> str:
    """Say in a few sentences what the proof found."""
    largest = max((*proof.errors.values(), proof.all), default=0.0)
    broken = [group for group, error in proof.errors.items() if not error <= proof.tolerance]
    lines = [f"Permuting groups changed the outputs by {largest:.1e} at most, relatively"]
    if broken:
        lines.append(f"NOT a symmetry: {', '.join(broken)}")
    elif not proof.holds:
        lines.append("NOT a symmetry: all groups at once, though each alone is one")
    if proof.movable:
        lines.append(f"Pinned, but swapping entries changed nothing: {', '.join(proof.movable)}")
        lines += [
            f"Input {path} is constant, which hides orders: draw it at random"
            for path, leaf in named_leaves(inputs).items()
            if np.size(leaf) > 1 and is_weight(leaf) and np.ptp(np.asarray(leaf)) == 0
        ]
    elif proof.holds:
        lines.append("Swapping entries of any pinned axis changed them: nothing is missed")
    if proof.inconclusive:
        lines.append(f"Without influence on these inputs: {', '.join(proof.inconclusive)}")
    return "\n".join(lines)
