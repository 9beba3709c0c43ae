"""What a run leaves in its folder beside its results, and in a document about several."""

import re
from pathlib import Path

from jaxfuse.atomic import write_text
from jaxfuse.experiments.cells import Results, Table
from jaxfuse.experiments.plots import save


def report(table: Table, results: Results, folder: Path) -> list[Path]:
    """Write the table and the pictures.

    Args:
        table: whose results they are.
        results: what is known.
        folder: where to; made where it does not exist.

    Returns:
        The files: `table.md`, then the pictures.
    """
    pictures = table.figures(results)
    links = [f"![{name}]({name}.png)" for name in pictures]
    written = [folder / "table.md"]
    write_text(written[0], "\n\n".join([table.markdown(results).rstrip(), *links]) + "\n")
    for name, figure in pictures.items():
        written.append(folder / f"{name}.png")
        save(figure, written[-1])
    return written


def renew(document: Path, name: str, text: str) -> None:
    """Put a table between its marks in a document, in place of what stands there.

    Args:
        document: a Markdown file with the lines `<!-- table NAME -->` and `<!-- end NAME -->`.
        name: of the table.
        text: the table.

    Raises:
        ValueError: if the marks are not there.
    """
    begin, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
    content = document.read_text()
    if begin not in content or end not in content:
        raise ValueError(f"{document} has no lines {begin} and {end} to put the table between")
    # Headings go one level down, and pictures lie in the folder of the table.
    text = re.sub(r"\]\((\w+\.png)\)", rf"]({name}/\1)", text.strip())
    text = re.sub(r"^#(#+)", r"##\1", text, flags=re.MULTILINE)
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    body = f"{begin}\n\n{text}\n\n{end}"
    write_text(document, re.sub(pattern, lambda _: body, content, flags=re.DOTALL))
