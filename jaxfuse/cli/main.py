"""Parse the command line, run the command, and turn expected failures into one line."""

import sys
from typing import Annotated

# TFDS replaces Python's import while it loads; the thread of a progress bar, which imports this
# module when it first draws, would fail then.
import rich.markup  # noqa: F401
import tyro
from rich.console import Console

from jaxfuse.cli.align import Align
from jaxfuse.cli.bench import Bench
from jaxfuse.cli.compilation_cache import use_compilation_cache
from jaxfuse.cli.demo import Demo
from jaxfuse.cli.experiment import Experiment
from jaxfuse.cli.federate import Federate
from jaxfuse.cli.fuse import Fuse
from jaxfuse.cli.methods import ListMethods
from jaxfuse.cli.symmetry import SymmetryTable

Command = (
    Annotated[Align, tyro.conf.subcommand("align", description=Align.__doc__)]
    | Annotated[Bench, tyro.conf.subcommand("bench", description=Bench.__doc__)]
    | Annotated[Demo, tyro.conf.subcommand("demo", description=Demo.__doc__)]
    | Annotated[Experiment, tyro.conf.subcommand("experiment", description=Experiment.__doc__)]
    | Annotated[Federate, tyro.conf.subcommand("federate", description=Federate.__doc__)]
    | Annotated[Fuse, tyro.conf.subcommand("fuse", description=Fuse.__doc__)]
    | Annotated[ListMethods, tyro.conf.subcommand("methods", description=ListMethods.__doc__)]
    | Annotated[SymmetryTable, tyro.conf.subcommand("symmetry", description=SymmetryTable.__doc__)]
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: the words after `jaxfuse`; those of the process by default.
    """
    if arguments is None:
        # A process of its own; whoever calls this function from Python keeps the settings of JAX.
        use_compilation_cache()
    try:
        command = tyro.cli(
            Command,  # type: ignore[arg-type]
            prog="jaxfuse",
            description="Align and fuse neural networks.",
            args=arguments,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        # File names are printed as they are: brackets and colons in them are no markup.
        command.run(Console(markup=False, emoji=False))
    except (ValueError, OSError, FloatingPointError) as error:
        Console(stderr=True, soft_wrap=True).print(
            f"jaxfuse: {error}", style="red", markup=False, highlight=False
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
