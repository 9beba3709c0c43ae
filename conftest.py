"""What is collected depends on what is installed."""

from importlib.util import find_spec

# Modules of an extra cannot be imported without it, nor their examples run.
collect_ignore_glob = [] if find_spec("flwr") is not None else ["jaxfuse/federated/flower/*"]
