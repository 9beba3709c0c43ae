import json
import os
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="the extra jaxfuse[notebooks] is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra jaxfuse[notebooks] is not installed")
pytest.importorskip("ipykernel", reason="the extra jaxfuse[notebooks] is not installed")
nbformat = pytest.importorskip("nbformat", reason="the extra jaxfuse[notebooks] is not installed")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST_FILE = 600_000

# Run in the notebook's own kernel after its last cell.
QUICKSTART_FACTS = """
import json
print(json.dumps({
    "accuracy": results,
    "barriers": [float(value) for value in (before.linear, after.linear)],
    "correlations": [float(jnp.median(jnp.diag(m))) for m in (before_matching, after_matching)],
    "training": {name: float(averages[-1]) for name, (_, averages) in runs.items()},
    "networks": {name: networks.tolist() for name, (networks, _) in runs.items()},
}))
"""
COMPACT_ENSEMBLE_FACTS = """
import json
print(json.dumps({
    "at_half": at_half,
    "barriers": {f"{split} {name}": value for (split, name), value in barriers.items()},
    "diagonals": diagonals,
    "correlations": correlations,
    "curves": curves,
    "parents": {split: [accuracy(params) for params in pair] for split, pair in parents.items()},
}))
"""


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def complaints(notebook):
    """Errors, and all that was written to stderr: warnings and log messages."""
    return [
        output.get("text") or "\n".join(output.get("traceback", []))
        for output in outputs(notebook)
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def shorten(notebook, changes):
    """Take fewer points where a cell repeats one thing: the same code runs, with less of it."""
    for long, short in changes.items():
        cells = [cell for cell in notebook.cells if long in cell.source]
        assert len(cells) == 1, long
        cells[0].source = cells[0].source.replace(long, short)


def execute(notebook, folder, monkeypatch):
    """Run all cells in an empty folder, with a home of their own for IPython's files."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()


def test_there_is_a_notebook():
    assert ROOT / "notebooks" / "quickstart.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_script_and_notebook_are_in_sync(path):
    notebook, script = jupytext.read(path), jupytext.read(path.with_suffix(".py"))
    pairs = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (notebook, script)]
    assert pairs[0] == pairs[1], "run jupytext --sync on the notebook and execute it"
    for each in (notebook, script):
        assert each.metadata.jupytext.formats == "ipynb,py:percent"
        assert each.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_complete_clean_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    # Execution times and the like would change with every run; jupytext notes blank lines.
    assert all(cell.metadata.keys() <= {"lines_to_next_cell"} for cell in notebook.cells)
    assert complaints(notebook) == []
    assert path.stat().st_size < LARGEST_FILE


def test_quickstart_runs_without_warnings_and_shows_what_it_says(tmp_path, monkeypatch):
    notebook = jupytext.read(ROOT / "notebooks" / "quickstart.py")
    last = {
        "((10, 0.5), (50, 0.5), (50, 0.1), (200, 0.5))": "((50, 0.1), (200, 0.5))",
        "jax.random.split(jax.random.key(2), 3)": "jax.random.split(jax.random.key(2), 1)",
    }
    shorten(notebook, last)
    notebook.cells.append(nbformat.v4.new_code_cell(QUICKSTART_FACTS))
    execute(notebook, tmp_path, monkeypatch)
    assert complaints(notebook) == []
    pictures = [out for out in outputs(notebook) if "image/png" in out.get("data", {})]
    assert len(pictures) == 4

    facts = json.loads("".join(out.text for out in notebook.cells[-1].outputs))
    accuracy = facts["accuracy"]
    parents = min(accuracy["network A"], accuracy["network B"])
    assert parents > 0.9
    assert accuracy["prediction ensemble"] > 0.9
    assert accuracy["aligned average"] > accuracy["plain average"] + 0.05
    assert accuracy["fused"] > parents - 0.06

    before, after = facts["barriers"]
    assert 0 <= after < before / 4
    unordered, matched = facts["correlations"]
    assert matched > unordered + 0.2

    training = facts["training"]
    assert training["with alignment"] > training["without alignment"] + 0.05
    assert min(min(networks) for networks in facts["networks"].values()) > 0.9
    assert training["with alignment"] > 0.9


def test_compact_ensemble_runs_without_warnings_and_shows_what_it_says(tmp_path, monkeypatch):
    notebook = jupytext.read(ROOT / "notebooks" / "compact_ensemble.py")
    points = {
        "np.linspace(0, 1, 11)": "np.linspace(0, 1, 3)",
        "np.repeat([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0], 6)": (
            "np.repeat([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0], 3)"
        ),
    }
    shorten(notebook, points)
    notebook.cells.append(nbformat.v4.new_code_cell(COMPACT_ENSEMBLE_FACTS))
    execute(notebook, tmp_path, monkeypatch)
    assert complaints(notebook) == []
    pictures = [out for out in outputs(notebook) if "image/png" in out.get("data", {})]
    assert len(pictures) == 5

    facts = json.loads("".join(out.text for out in notebook.cells[-1].outputs))
    ours = ("jaxfuse, no data", "jaxfuse, images")
    others = ("plain average", "OTFusion", "Git Re-Basin", "GAMF")
    for split, found in facts["at_half"].items():
        assert max(found[name] for name in others) < min(found[name] for name in ours)
        assert found["plain average"] < 0.85
        assert facts["barriers"][f"{split} jaxfuse"] < facts["barriers"][f"{split} plain average"]
        # A line from parent to parent, whatever is done in between.
        ends = [facts["curves"][split]["plain average"][place] for place in (0, -1)]
        assert ends == facts["parents"][split]
    homogeneous = facts["at_half"]["homogeneous"]
    assert homogeneous["jaxfuse, images"] > min(facts["parents"]["homogeneous"]) - 0.03

    before, after = facts["diagonals"][:3], facts["diagonals"][3:]
    assert all(late > early + 0.2 for early, late in zip(before, after, strict=True))
    assert min(facts["correlations"].values()) > 0.5
