"""Flower is an extra."""

import importlib
import importlib.util
import sys

import pytest


@pytest.mark.skipif(
    importlib.util.find_spec("flwr") is None,
    reason="Flower is not installed (pip install 'jaxfuse[federated]'), its tests not collected",
)
def test_the_room_can_be_imported():
    assert importlib.import_module("jaxfuse.federated.flower").FusionStrategy


def test_without_flower_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("jaxfuse.federated.flower")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'jaxfuse\[federated\]'"):
        importlib.import_module("jaxfuse.federated.flower")
