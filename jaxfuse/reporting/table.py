"""The table of a comparison."""

from rich.table import Table

from jaxfuse.reporting.comparison import Row


def comparison_table(rows: list[Row], title: str) -> Table:
    """Lay out the rows of a comparison for the terminal.

    Args:
        rows: the rows, in order.
        title: what was compared, on what data.

    Returns:
        A rich table; the best accuracy among the fused networks is bold. Under it is
        a line for every row with a status.
    """
    told = "\n".join(f"{row.name}: {row.status}" for row in rows if row.status is not None)
    table = Table(title=title, title_justify="left", caption=told or None, caption_justify="left")
    table.add_column("network")
    for column in ("accuracy %", "loss", "loss barrier", "seconds"):
        table.add_column(column, justify="right")
    # The names of the parents are the user's own: only the beginning tells what was fused.
    made = ("plain average", "aligned average")
    fused = [row.accuracy for row in rows if row.name.startswith(made)]
    for row in rows:
        best = row.name.startswith(made) and row.accuracy == max(fused)
        table.add_row(
            row.name,
            f"{100 * row.accuracy:.2f}",
            f"{row.loss:.3f}",
            "-" if row.barrier is None else f"{row.barrier:.3f}",
            "-" if row.seconds is None else f"{row.seconds:.2f}",
            style="bold" if best else None,
        )
    return table
