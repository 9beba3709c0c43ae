"""Clients in plain NumPy: 0 is sound, 1 sends NaN, 2 wrong shapes, and 3 dies when told to."""

import os
import signal

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def fit(message: Message, context: Context) -> Message:
    client = int(context.node_config["partition-id"])
    arrays = {name: each.numpy() for name, each in message.content["arrays"].items()}
    kernel = arrays["dense/0/kernel"] + client + 1
    if client == 1:
        kernel[0, 0] = np.nan
    elif client == 2:
        kernel = kernel.T
    elif client == message.content["config"]["dies"]:
        # The whole node: its process group has the SuperNode and all that it started.
        os.killpg(0, signal.SIGKILL)
    arrays["dense/0/kernel"] = kernel
    record = ArrayRecord({name: Array(np.asarray(each)) for name, each in arrays.items()})
    rounds = 1 + context.state["rounds"]["count"] if "rounds" in context.state else 1
    context.state["rounds"] = MetricRecord({"count": rounds})
    metrics = MetricRecord({"num-examples": 10 * (client + 1), "rounds": rounds})
    return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)
