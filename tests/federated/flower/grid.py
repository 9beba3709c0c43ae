"""Flower's grid in one process: messages go to client apps by a function call."""

from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


class InProcessGrid(Grid):
    """Nodes that share a client app and have a context each.

    Attributes:
        contexts: what each node keeps, by its id.
        silent: nodes that never answer.
        gone: nodes for which the SuperLink answers, with an error of its own.
        sent: all messages.
    """

    def __init__(self, app: ClientApp, nodes: int):
        # What Flower's own processes set before they run an app: messages are stamped with it.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.app = app
        self.contexts = {
            100 + number: Context(1, 100 + number, {"partition-id": number}, RecordDict(), {})
            for number in range(nodes)
        }
        self.silent: set[int] = set()
        self.gone: set[int] = set()
        self.sent: list[Message] = []

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            self.sent.append(message)
            message.metadata.__dict__["_message_id"] = f"message-{len(self.sent)}"
            node = message.metadata.dst_node_id
            if node in self.silent:
                continue
            if node in self.gone:
                reply = Message(Error(5, "node unavailable"), reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = 1
            else:
                reply = self._answer(message, self.contexts[node])
            replies.append(reply)
        return replies

    def _answer(self, message: Message, context: Context) -> Message:
        try:
            return self.app(message, context)
        except Exception as error:
            return Message(Error(2, repr(error)), reply_to=message)

    def get_node_ids(self):
        return list(self.contexts)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **options: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages):
        raise NotImplementedError

    def pull_messages(self, message_ids):
        raise NotImplementedError
