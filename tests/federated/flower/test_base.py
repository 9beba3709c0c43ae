"""What a strategy with records of its own does beyond the network."""

import numpy as np
from flwr.app import Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from jaxfuse.federated.flower import JaxStrategy, from_record, to_record
from tests.federated.flower.grid import InProcessGrid


class Masks(JaxStrategy):
    """Sends every node a mask of its own, asks all for their loss, and adds what comes back."""

    def begin(self, server_round, params, grid):
        questions = [
            Message(RecordDict({"arrays": to_record(params)}), node, MessageType.QUERY)
            for node in grid.get_node_ids()
        ]
        answers = grid.send_and_receive(questions)
        losses = [reply.content["metrics"]["loss"] for reply in answers]
        self.worst = int(np.argmax(losses))

    def announce(self, server_round, params, node):
        return {"mask": {"w": np.eye(3, dtype=np.float32)[node % 100]}}

    def expect(self, params):
        return {"used": {"w": np.zeros(3, np.float32)}}

    def serve(self, server_round, params, updates):
        total = sum(self.network_of(update)["w"] for update in updates)
        used = sum(update.arrays["used"]["w"] for update in updates)
        return {"w": total + used}, {"worst": self.worst}


def test_nodes_get_records_of_their_own_after_a_question(caplog):
    app = ClientApp()

    @app.query()
    def ask(message, context):
        loss = 1.0 if context.node_config["partition-id"] == 2 else 0.0
        return Message(RecordDict({"metrics": MetricRecord({"loss": loss})}), reply_to=message)

    @app.train()
    def fit(message, context):
        mask = from_record(message.content["mask"])
        if context.node_config["partition-id"] == 1:
            mask = {"w": mask["w"][:2]}
        content = {
            "used": to_record(mask),
            "arrays": message.content["arrays"],
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(content), reply_to=message)

    strategy = Masks(min_train_nodes=3, fraction_evaluate=0.0)
    start = to_record({"w": np.ones(3, np.float32)})
    result = strategy.start(InProcessGrid(app, 3), start, num_rounds=1)
    np.testing.assert_array_equal(from_record(result.arrays)["w"], [3.0, 2.0, 3.0])
    assert result.train_metrics_clientapp[1]["worst"] == 2
    assert "node 101: record 'used': leaf 'w' has shape (2,)" in caplog.text
