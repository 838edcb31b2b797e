"""Last in the chain of hooks: only what the node admitted goes on to the upstream.

Everything in mitmproxy fails open: a hook that raises, a script that was deleted or broken, a replayed flow.
Whatever the reason, a request that comes by here without an admission gets 503. An admission lives outside
the flow, because a flow's own marks survive a replay, and is used once.
"""

from __future__ import annotations

from mitmproxy import http

from addon.errors import Overloaded
from addon.replies import Caller, Cors, error

NAME = "routstr-gate"


class Gate:
    """Shut unless told otherwise, flow by flow."""

    name = NAME

    def __init__(self) -> None:
        self._admitted: dict[str, bytes | None] = {}
        self.cors = Cors(())
        """Which pages may read its refusals."""

    def admit(self, flow: http.HTTPFlow) -> None:
        """Lets one flow pass, once, with the body that it has now."""
        self._admitted[flow.id] = flow.request.raw_content

    def withdraw(self, flow: http.HTTPFlow) -> None:
        """Takes an admission back that was not used."""
        self._admitted.pop(flow.id, None)

    def request(self, flow: http.HTTPFlow) -> None:
        admitted = flow.id in self._admitted
        body = self._admitted.pop(flow.id, None)
        if flow.response is not None or flow.error is not None:
            return
        if admitted and body == flow.request.raw_content and not flow.is_replay:
            return
        failure = Overloaded("This node is starting or stopping, or its script is gone; try again in a moment.")
        flow.response = error(failure, Caller(flow.id, self.cors.headers(flow.request.headers.get("origin"))))
