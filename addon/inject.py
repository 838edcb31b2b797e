"""The one module that reaches into mitmproxy's layers, where no hook can do what money needs.

- `answer`: a whole answer now, before the request's body has come, or in place of an HTML error page.
- `add_secret`: header fields that only the client sees.
- `append`: bytes after the last of a streamed answer, when they took an await to make.
- `limit_request_body`, `stream_when_large`: bounds of one flow, which mitmproxy only knows globally.
- `outlive`: an answer that is read to its end though its client has left.
- `close_upstream`: ends a wait for the first byte. `close_forgotten`: sockets that Python ≥ 3.12 leaves open.

Nothing of this is documented; read in mitmproxy 11.0 and 12.2, and tested on both. A command that is marked
as done is routed by `HttpLayer` to the "source" that is registered for it, and what that source yields goes
the way of any stream's output: so it works on HTTP/1 and HTTP/2, clear or TLS.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mitmproxy.proxy.server
from mitmproxy import ctx, http
from mitmproxy.connection import Client, Connection
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import (
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
)
from mitmproxy.proxy.server import ConnectionHandler

FORGOTTEN_AFTER_S: Final = 1.0
SECONDS_BEYOND: Final = 120
StreamFunction = Callable[[bytes], bytes | Iterable[bytes]]


class _Send(commands.Command):
    blocking = False


@dataclass(repr=False)
class _Sent(events.CommandCompleted):
    command: _Send
    reply: None = None


class _Source:
    """Stands where mitmproxy expects the layer that waits for a command."""

    def __init__(self, client: Connection, out: Sequence[HttpEvent]) -> None:
        self._client = client
        self._out = out

    def handle_event(self, _: events.Event) -> Iterator[commands.Command]:
        for event in self._out:
            yield SendHttp(event, self._client)


class _Nobody:
    """Stands where mitmproxy expects a client that left: nothing goes there, and what it sent ahead is not read."""

    def handle_event(self, _: events.Event) -> Iterator[commands.Command]:
        return iter(())


async def answer(flow: http.HTTPFlow, response: http.Response) -> bool:
    """Sends a whole answer at once; the caller then kills the flow. False: the client is gone."""
    response.headers["connection"] = "close"
    body = response.raw_content or b""
    return await _send(
        flow,
        lambda stream: [
            ResponseHeaders(stream, response, end_stream=False),
            *([ResponseData(stream, body)] if body else []),
            ResponseEndOfMessage(stream),
        ],
    )


async def append(flow: http.HTTPFlow, data: bytes) -> bool:
    """More bytes of a streamed answer, from `async def response`. False: the client is gone."""
    return await _send(flow, lambda stream: [ResponseData(stream, data)])


def add_secret(flow: http.HTTPFlow, fields: Sequence[tuple[bytes, bytes]]) -> None:
    """Header fields of an answer that only the client sees: no view, log or file of flows does.

    To be called in `response`: what is sent afterwards comes from a flow of the stream's own.
    """
    found = _stream_of(flow)
    if found is None or flow.response is None:
        return
    own = copy.copy(flow)
    own.response = flow.response.copy()
    own.response.data.headers.fields = (*own.response.data.headers.fields, *fields)
    found[2].flow = own


def limit_request_body(flow: http.HTTPFlow, most_bytes: int) -> None:
    """Bounds this request's body, whatever its framing; beyond it mitmproxy raises `error` with 413.

    Its own option of that name also cuts answers, after the work was done and paid.
    """
    found = _stream_of(flow)
    if found is not None:
        _own_limits(found[2]).body_size_limit = most_bytes


def unlimit(flow: http.HTTPFlow) -> None:
    """The request is complete: no limit for its answer."""
    found = _stream_of(flow)
    if found is not None:
        _own_limits(found[2]).body_size_limit = None


def stream_when_large(flow: http.HTTPFlow, most_bytes: int, make: Callable[[], StreamFunction]) -> None:
    """Lets a buffered answer turn into a stream through `make()` once it has `most_bytes`.

    To be called in `responseheaders`. mitmproxy then sets `response.stream = True`; that becomes our function.
    """
    found = _stream_of(flow)
    if found is None or flow.response is None:
        return
    _own_limits(found[2]).stream_large_bodies = most_bytes
    base = type(flow.response)

    class LateStream(base):  # type: ignore[misc, valid-type]
        """A response whose stream function is made at the moment it is needed."""

        @property
        def stream(self) -> bool | StreamFunction:
            return self.__dict__.get("_stream", False)  # type: ignore[no-any-return]

        @stream.setter
        def stream(self, value: bool | StreamFunction) -> None:
            self.__dict__["_stream"] = make() if value is True else value

    flow.response.__class__ = LateStream


def outlive(flow: http.HTTPFlow, leaves: Callable[[], bool]) -> None:
    """Lets the upstream's answer come in though its client has left, where `leaves()`, asked then, says so.

    To be called in `request`. The stream does not hear of the client's end, and goes on to `response` or `error`.
    mitmproxy closes the upstream's connection when `client_disconnected` is over: who wants the answer waits there.
    """
    found = _stream_of(flow)
    if found is None:
        return
    layer, _, stream = found
    go_on = stream.handle_event

    def handle_event(event: events.Event) -> Iterator[commands.Command]:
        if not isinstance(event, RequestProtocolError) or not leaves():
            return go_on(event)
        layer.connections[layer.context.client] = _Nobody()  # type: ignore[assignment]
        return iter(())

    stream.handle_event = handle_event  # type: ignore[method-assign, assignment]


def close_upstream(flow: http.HTTPFlow) -> None:
    """Closes the upstream's connection under a flow that waits for it, or for its making: `error` fires.

    A connection that is being made (TLS is a part of it) is not the flow's yet; a client's flows take turns.
    """
    handler = _handler(flow.client_conn)
    if handler is None:
        return
    for connection in list(handler.transports):
        if connection is not flow.client_conn:
            handler.close_connection(connection)


def idle_s(flow: http.HTTPFlow) -> float:
    """Seconds since the last byte on a flow's connections, either way."""
    handler = _handler(flow.client_conn)
    return 0.0 if handler is None else time.time() - handler.timeout_watchdog.last_activity


def close_forgotten(client: Client) -> None:
    """On Python ≥ 3.12 a connection ended while the client still sends is dropped without closing its
    socket; it would stay open until a garbage collection. To be called in `client_disconnected`."""
    handler = _handler(client)
    if handler is None:
        return
    for io in list(handler.transports.values()):
        if io.writer is not None and not io.writer.is_closing():
            asyncio.get_running_loop().call_later(FORGOTTEN_AFTER_S, io.writer.close)


def outlast(timeout_s: float) -> None:
    """mitmproxy's only time-out (no traffic on a client's connection and its upstream's) must not cut what
    ours still allows."""
    seconds = int(timeout_s) + SECONDS_BEYOND
    if "tcp_timeout" in ctx.options:
        ctx.options.update(tcp_timeout=seconds)
    else:
        vars(mitmproxy.proxy.server)["TCP_TIMEOUT"] = seconds


class _Limits:
    """The options of one stream: two of its own, all others those of the proxy."""

    def __init__(self, options: Any) -> None:
        self._options = options
        self.body_size_limit: int | None = None
        self.stream_large_bodies: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._options, name)


def _own_limits(stream: HttpStream) -> _Limits:
    options: Any = stream.context.options
    if isinstance(options, _Limits):
        return options
    stream.context = copy.copy(stream.context)
    limits = _Limits(options)
    stream.context.options = limits  # type: ignore[assignment]
    return limits


async def _send(flow: http.HTTPFlow, make: Callable[[int], Sequence[HttpEvent]]) -> bool:
    handler, found = _handler(flow.client_conn), _stream_of(flow)
    if handler is None or found is None:
        return False
    layer, stream_id, _ = found
    command = _Send()
    layer.command_sources[command] = _Source(layer.context.client, make(stream_id))  # type: ignore[assignment]
    await handler.server_event(_Sent(command))
    return True


def _stream_of(flow: http.HTTPFlow) -> tuple[HttpLayer, int, HttpStream] | None:
    handler = _handler(flow.client_conn)
    if handler is None:
        return None
    for layer in handler.layer.context.layers:
        if isinstance(layer, HttpLayer):
            for stream_id, stream in layer.streams.items():
                if getattr(stream, "flow", None) is flow:
                    return layer, stream_id, stream
    return None


def _handler(client: Client) -> ConnectionHandler | None:
    server: Any = ctx.master.addons.get("proxyserver")
    handler = server.connections.get(client.id)
    return handler if isinstance(handler, ConnectionHandler) else None
