"""`jaxfuse symmetry`: print what may be permuted in a model."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from flax import nnx
from rich.console import Console

from jaxfuse.atomic import write_text
from jaxfuse.models.zoo import ZOO
from jaxfuse.symmetry import Verification, infer_symmetry
from jaxfuse.symmetry.trace.call import as_function


@dataclass(frozen=True)
class SymmetryTable:
    """Trace a model and print the groups of units that may be permuted, and what is pinned."""

    model: tyro.conf.Positional[str]
    """A bundled model, "list" for their names, or package.module:function of your own, where the
    function returns (module, *inputs) or (apply_fn, params, *inputs)."""
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
        if self.model == "list":
            for name in ZOO:
                console.print(name)
            return
        if self.published and self.verify:
            raise ValueError("--verify runs the model, --published only looks at shapes: give one")
        apply_fn, params, inputs = as_function(*self._call())
        symmetry = infer_symmetry(apply_fn, params, *inputs)
        console.print(symmetry.table(width=console.width), soft_wrap=True, highlight=False)
        console.print(f"{symmetry.coverage(params):.1%} of the parameters lie on a group")
        if self.json is not None:
            write_text(self.json, symmetry.to_json() + "\n")
            console.print(f"Wrote {self.json}", soft_wrap=True)
        if self.verify:
            proof = symmetry.verify(apply_fn, params, *inputs, key=jax.random.key(self.seed))
            console.print(_verdict(proof), soft_wrap=True)
            if not (proof.holds and proof.complete):
                sys.exit(1)

    def _call(self) -> tuple[Any, ...]:
        """Return what is traced, and what it is called with."""
        if ":" in self.model:
            if self.published:
                raise ValueError("--published is for bundled models")
            return _imported(self.model)
        if self.model not in ZOO:
            raise ValueError(
                f"unknown model {self.model!r}: choose one of {', '.join(ZOO)}, or name a function "
                "of your own as package.module:function"
            )
        example = ZOO[self.model]
        build, inputs = example.build, example.inputs
        if self.published:
            build = example.published or build
            inputs = example.published_inputs or inputs
            module = nnx.eval_shape(lambda: build(nnx.Rngs(self.seed)))
        else:
            module = build(nnx.Rngs(self.seed))
        return module, *inputs(jax.random.key(self.seed))


def _imported(name: str) -> tuple[Any, ...]:
    """Call the user's function package.module:function."""
    module, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"can't import {name}: {error}") from None
    call = factory()
    if not isinstance(call, tuple):
        raise ValueError(
            f"{name} returned {type(call).__name__}: return a tuple of the module and its inputs, "
            "or of the function, its parameters and its inputs"
        )
    return call


def _verdict(proof: Verification) -> str:
    """Say in a sentence what the proof found."""
    largest = max(proof.errors.values(), default=0.0)
    broken = [group for group, error in proof.errors.items() if not error <= proof.tolerance]
    lines = [f"Permuting groups changed the outputs by {largest:.1e} at most, relatively"]
    if broken:
        lines.append(f"NOT a symmetry: {', '.join(broken)}")
    if proof.movable:
        lines.append(f"Pinned, but swapping entries changed nothing: {', '.join(proof.movable)}")
    elif not broken:
        lines.append("Swapping entries of any pinned axis changed them: nothing is missed")
    if proof.inconclusive:
        lines.append(f"Without influence on these inputs: {', '.join(proof.inconclusive)}")
    return "\n".join(lines)
