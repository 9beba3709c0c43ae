import re
from html.parser import HTMLParser

import pytest

from jaxfuse.bench.html import page
from jaxfuse.bench.record import Report, Row
from jaxfuse.bench.table import HEAD, markdown, terminal
from jaxfuse.bench.timing import Ratio


@pytest.fixture
def report() -> Report:
    rows = []
    for n in (8, 16, 32):
        about = {"series": "solve", "axis": "n", "size": n, "predicted": {"seconds": 3.0}}
        case, spread = f"solve/n={n}", (0.9e-6 * n**3, 1.2e-6 * n**3)
        rows.append(
            Row(
                "kernels", case, "jaxfuse", seconds=1e-6 * n**3, quartiles=spread, first=1.0,
                quality={"of_optimum": 1.0}, shares={"flops": 0.5}, peak=3.0, **about,
            )
        )  # fmt: skip
        rows.append(
            Row(
                "kernels", case, "A <peer>", seconds=2e-6 * n**3, quartiles=spread, first=0.1,
                ratio=Ratio(0.5, 0.4, 0.6, 0.5), quality={"of_optimum": 1.0}, **about,
            )
        )  # fmt: skip
        rows.append(Row("kernels", case, "absent", note="needs 1.5 GB", **about))
    machine = {"device": "cpu", "platform": "cpu", "cores": 2}
    machine |= {"system": "Linux", "architecture": "x86_64", "jax": "0.10"}
    return Report(machine, "2026-01-01", True, {"flops": 1e11}, tuple(rows), (("kernels", case),))


def test_json_and_back(report):
    assert Report.from_json(report.to_json()) == report


def test_a_case_that_is_measured_again_replaces_its_rows(report):
    row = Row("kernels", "solve/n=8", "jaxfuse", seconds=5.0)
    again = report.plus("kernels", "solve/n=8", [row])
    assert [r.seconds for r in again.rows if r.case == "solve/n=8"] == [5.0]
    assert len(again.rows) == len(report.rows) - 2


def test_markdown_has_a_line_for_every_row_and_trend(report):
    text = markdown(report)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(report.rows) + 2 + 2
    assert "needs 1.5 GB" in text
    assert "| solve | jaxfuse | seconds | n 8 - 32 | 3.00 | 3.00 | 3 |" in text


def test_the_terminal_leaves_out_empty_columns(report):
    rows, exponents = terminal(report)
    heads = [column.header for column in rows.columns]
    assert "program MiB" not in heads
    assert set(heads) < set(HEAD)
    assert rows.row_count == len(report.rows)
    assert exponents.row_count == 2


class Addresses(HTMLParser):
    """Collects what a browser would fetch, and the names inside the page."""

    def __init__(self):
        super().__init__()
        self.fetched, self.ids, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset") and value[0] != "#":
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)


def test_the_page_needs_nothing_else(report):
    text = page(report)
    parser = Addresses()
    parser.feed(text)
    assert parser.fetched == []
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert not {"script", "link", "iframe", "img"} & set(parser.tags)
    assert parser.tags.count("svg") == 2
    # Matplotlib's names of groups repeat; those that are referred to must not.
    for name in re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'href="#([^"]+)"', text):
        assert parser.ids.count(name) == 1


def test_the_page_escapes_names_and_has_all_rows(report):
    text = page(report)
    assert "A &lt;peer&gt;" in text
    assert "A <peer>" not in text
    assert text.count("<tr class=") == len(report.rows) + 2


def test_an_empty_report_can_be_written():
    empty = Report.start(quick=True)
    assert "jaxfuse bench" in page(empty)
    assert "jaxfuse bench" in markdown(empty)
