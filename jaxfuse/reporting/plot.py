"""Pictures of a comparison."""

import os

from jaxfuse.atomic import replacing
from jaxfuse.reporting.comparison import Curve

# Okabe and Ito's palette, told apart by colour-blind readers; the line styles tell too.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
_STYLES = ("--", "-", "-.", ":", "-")


def plot_barriers(curves: list[Curve], path: str | os.PathLike[str], title: str) -> None:
    """Draw the loss along every path between two networks, and write it as a PNG, atomically.

    Args:
        curves: the paths.
        path: the picture's file.
        title: what the networks are.
    """
    # Drawn without pyplot: no global state, no window, no chosen backend.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for index, curve in enumerate(curves):
        axes.plot(
            curve.ts,
            curve.losses,
            color=_COLOURS[index % len(_COLOURS)],
            linestyle=_STYLES[index % len(_STYLES)],
            linewidth=2,
            label=f"{curve.name} (barrier {curve.barrier:.3f})",
        )
    axes.set(
        xlabel="position between the parents (0: first, 1: second)",
        ylabel="test loss (cross entropy, nats)",
        title=title,
        xlim=(0, 1),
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    # Outside the axes, where it can cover no curve.
    figure.legend(loc="outside lower center", frameon=False)
    with replacing(path) as file:
        figure.savefig(file, format="png")
