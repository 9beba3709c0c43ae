"""`jaxfuse methods`: list the matchers."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from jaxfuse.methods import METHODS, method_table


@dataclass(frozen=True)
class ListMethods:
    """List the methods that --method and `method=` take: what each needs, finds and costs."""

    markdown: bool = False
    """Print the table of METHODS.md."""

    def run(self, console: Console) -> None:
        """Print the list."""
        if self.markdown:
            console.print(method_table(), soft_wrap=True, highlight=False)
            return
        table = Table("method", "data", "finds", "many", "widths", "paper")
        for name, entry in METHODS.items():
            widths = "any" if entry.widths else "one"
            table.add_row(name, entry.data, entry.finds, entry.many, widths, entry.paper)
        console.print(table)
