"""What a client remembers from one round to the next."""

import logging

from flwr.app import Context

from jaxfuse.federated.flower.records import from_record, named_arrays, to_record
from jaxfuse.federated.screen import screen
from jaxfuse.models.functional import Params

_logger = logging.getLogger(__name__)


def remember(context: Context, name: str, params: Params) -> None:
    """Keep arrays in the state of a node: a control variate, or statistics that stay local.

    Flower keeps the state for as long as the SuperNode runs, and sends it to nobody. Arrays that
    are not finite are not kept, or no later round of the node could be used: what was there stays,
    and the log says so.

    Args:
        context: the context that Flower gives the client app.
        name: what to keep them under.
        params: nested dict of arrays.
    """
    record = to_record(params)
    arrays = named_arrays(record)
    flaw = screen(arrays, arrays)
    if flaw is None:
        context.state[name] = record
    else:
        _logger.warning("%r is not kept: %s", name, flaw)


def recall(context: Context, name: str) -> Params | None:
    """Return what was kept under a name, or None where nothing was.

    Args:
        context: the context that Flower gives the client app.
        name: what it was kept under.

    Examples:
        >>> import numpy as np
        >>> from flwr.app import RecordDict
        >>> context = Context(1, 2, {}, RecordDict(), {})
        >>> recall(context, "control") is None
        True
        >>> remember(context, "control", {"w": np.ones(2)})
        >>> recall(context, "control")
        {'w': array([1., 1.])}
    """
    if name not in context.state.array_records:
        return None
    return from_record(context.state.array_records[name])
