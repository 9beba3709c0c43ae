"""Flower is an extra: without it only the test that says so is collected."""

from importlib.util import find_spec
from pathlib import Path

# The app is for Flower's own processes.
collect_ignore = ["faulty_app"]
if find_spec("flwr") is None:
    here = {path.name for path in Path(__file__).parent.glob("*.py")}
    collect_ignore += sorted(here - {"conftest.py", "test_extra.py"})
