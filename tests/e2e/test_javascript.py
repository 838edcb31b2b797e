"""What people use in JavaScript: npm's `openai`, `@anthropic-ai/sdk` and Vercel's `ai`, in node, from a lock.

Each call is made at the upstream itself and through the node; what the client makes of both is the same.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts import realparts
from scripts.realparts import ROOT
from tests.e2e.conftest import Business, Node
from tests.parts import npm
from tests.parts.upstream import DONE, chunk, usage, whole

MODEL = ROOT / "tests" / "data" / "tiny.gguf"
CLIENTS = Path(__file__).with_name("javascript")
SHOWS_A_RECEIPT = "openai responses, streamed"
"""This one shows every event that it is sent. Chats are closed at `[DONE]`, and Anthropic's skips each `ping`."""
CALLS = {
    "openai chat": "chat",
    "openai chat, streamed": "chat-stream",
    "openai chat, streamed and joined": "chat-stream",
    "openai responses": "responses",
    "openai responses, streamed": "responses-stream",
    "openai responses, streamed and joined": "responses-stream",
    "anthropic messages": "messages",
    "anthropic messages, streamed": "messages-stream",
    "anthropic messages, streamed and joined": "messages-stream",
    "vercel chat": "chat",
    "vercel chat, streamed": "chat-stream",
    "vercel responses": "responses",
    "vercel responses, streamed": "responses-stream",
    "vercel messages": "messages",
    "vercel messages, streamed": "messages-stream",
}
"""The calls of `clients.mjs`, and which answer each gets."""
ODD = ("openai responses, streamed and joined", "vercel responses, streamed")
"""These take no stream of Responses as llama.cpp makes it, whoever brings it."""
OF_THE_MOMENT = {
    *("id", "item_id", "created", "created_at", "completed_at", "timings", "cost"),
    *("prompt_tokens_details", "input_tokens_details", "inputTokenDetails", "cache_read_input_tokens", "input_tokens"),
    "raw",
}
"""What a real server says anew each time, what was in its cache among it."""
Told = Mapping[str, Any]


def call(url: str, key: str, model: str, asked: Mapping[str, str], home: Path, *, tools: bool) -> Told:
    """What each client made of its answer."""
    words = [url, key, model, "tools" if tools else "-", json.dumps(asked)]
    done = subprocess.run([npm.NODE, "clients.mjs", *words], cwd=npm.installed(CLIENTS), env=npm.env(HOME=str(home)),
                          capture_output=True, text=True, timeout=100, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told: Told = json.loads(done.stdout)
    return told


def without(told: Any, names: set[str]) -> Any:
    """The same without these fields, wherever they are, and without the receipt."""
    if isinstance(told, list):
        return [without(item, names) for item in told if not is_receipt(item)]
    if isinstance(told, dict):
        return {name: without(value, names) for name, value in told.items() if name not in names}
    return told


def is_receipt(event: Any) -> bool:
    return isinstance(event, dict) and "cost" in event


# --- a real model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken(business: Business, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Told, Told]]:
    """Of a real language model: what came from it, and what came through the node."""
    home = tmp_path_factory.mktemp("javascript")
    npm.installed(CLIENTS)
    model, url = realparts.llm(home / "llm", MODEL, name="tiny", threads=1)
    listed = home / "models.json"
    listed.write_text(json.dumps({"data": [{"id": "tiny", "context_length": 4096}]}))
    own = {"STATE_DIR": str(home / "state"), "NSEC": os.urandom(32).hex(), "MODELS_PATH": str(listed)}
    node = Node(home, url, business.settings | own)
    asked = {name: "the a of" for name in CALLS if name not in ODD}
    try:
        model.start()
        model.wait_until(f"{url}/health")
        key = business.account(node=node.start())
        direct = call(url, "none", "tiny", asked, home, tools=False)
        through = call(node.url, key, "tiny", asked, home, tools=False)
        assert node.settled(key)["total_requests"] == len(asked)
        yield direct, through
    finally:
        node.stop()
        model.end()


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ODD])
def test_a_client_hears_the_model_itself(spoken: tuple[Told, Told], name: str) -> None:
    direct, through = (without(told[name], OF_THE_MOMENT) for told in spoken)
    assert "failed" not in direct and through == direct
    assert sum(map(is_receipt, spoken[1][name])) == (name == SHOWS_A_RECEIPT)


# --- tools ------------------------------------------------------------------------------------------

ARGUMENTS = '{"place":"Bern"}'


def _call_of(**more: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}} | more


def _chat_stream() -> Iterator[bytes]:
    """A call whose arguments come in two pieces, and figures on its last chunk."""
    yield chunk(None, choices=[{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}])
    begun = _call_of(index=0, function={"name": "weather", "arguments": ARGUMENTS[:7]})
    for delta in ({"tool_calls": [begun]}, {"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[7:]}}]}):
        yield chunk(None, choices=[{"index": 0, "delta": delta, "finish_reason": None}])
    yield chunk(None, "tool_calls", usage=usage(7, 3))
    yield DONE


def _response(status: str, output: Sequence[Any]) -> dict[str, Any]:
    told = {"id": "resp_1", "object": "response", "created_at": 1, "model": "up", "status": status, "error": None,
            "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
            "temperature": 0, "tool_choice": "auto", "tools": [], "top_p": 1, "output": output}  # fmt: skip
    figures = {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 3,
               "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10}  # fmt: skip
    return told | {"usage": figures if status == "completed" else None}


CALLED = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather", "status": "completed",
          "arguments": ARGUMENTS}  # fmt: skip


def _response_stream() -> Iterator[bytes]:
    begun = CALLED | {"status": "in_progress", "arguments": ""}
    part = {"item_id": "fc_1", "output_index": 0}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": _response("in_progress", [])}),
        ("response.output_item.added", {"output_index": 0, "item": begun}),
        ("response.function_call_arguments.delta", part | {"delta": ARGUMENTS[:7]}),
        ("response.function_call_arguments.delta", part | {"delta": ARGUMENTS[7:]}),
        ("response.function_call_arguments.done", part | {"arguments": ARGUMENTS, "name": "weather"}),
        ("response.output_item.done", {"output_index": 0, "item": CALLED}),
        ("response.completed", {"response": _response("completed", [CALLED])}),
    ]
    for number, (kind, more) in enumerate(events):
        yield named(kind, {"sequence_number": number} | more)


def named(kind: str, more: Mapping[str, Any]) -> bytes:
    """One event that has a name."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | dict(more))}\n\n".encode()


def _message(**more: Any) -> dict[str, Any]:
    said = {"id": "msg_1", "type": "message", "role": "assistant", "model": "up"}
    open_end: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
    return said | open_end | {"usage": {"input_tokens": 7, "output_tokens": 1}} | more


def _message_stream() -> Iterator[bytes]:
    tool = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    yield named("message_start", {"message": _message()})
    yield named("content_block_start", {"index": 0, "content_block": tool})
    yield named("ping", {})
    for piece in (ARGUMENTS[:7], ARGUMENTS[7:]):
        delta = {"type": "input_json_delta", "partial_json": piece}
        yield named("content_block_delta", {"index": 0, "delta": delta})
    yield named("content_block_stop", {"index": 0})
    end = {"delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 3}}
    yield named("message_delta", end)
    yield named("message_stop", {})


def _whole_chat() -> bytes:
    told = {"role": "assistant", "content": None, "tool_calls": [_call_of()]}
    return whole(choices=[{"index": 0, "message": told, "finish_reason": "tool_calls"}])


def _whole_message() -> bytes:
    used = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": json.loads(ARGUMENTS)}
    figures = {"input_tokens": 7, "output_tokens": 3}
    return json.dumps(_message(content=[used], stop_reason="tool_use", usage=figures)).encode()


@pytest.fixture(scope="module")
def called(business: Business, tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, Told]:
    """Of an upstream that calls a tool, however it is asked, and always in the same words."""
    home = tmp_path_factory.mktemp("tools")
    key, upstream = business.account(), business.upstream
    streams = {"chat": _chat_stream, "responses": _response_stream, "messages": _message_stream}
    wholes = {"chat": _whole_chat(), "messages": _whole_message(),
              "responses": json.dumps(_response("completed", [CALLED])).encode()}  # fmt: skip
    scripted = {name: upstream.on(f"tool-{name}", body) for name, body in wholes.items()} | {
        f"{name}-stream": upstream.on(f"tool-{name}-stream", *made(), kind="text/event-stream", chunked=True)
        for name, made in streams.items()
    }
    asked = {name: scripted[answer] for name, answer in CALLS.items()}
    direct = call(upstream.url, "none", "small", asked, home, tools=True)
    through = call(business.node.url, key, "small", asked, home, tools=True)
    assert business.node.settled(key)["total_requests"] == len(asked)
    return direct, through


@pytest.mark.parametrize("name", CALLS)
def test_a_client_calls_its_tool_with_what_the_model_said(called: tuple[Told, Told], name: str) -> None:
    direct, through = called[0][name], without(called[1][name], {"cost"})
    assert "Bern" in json.dumps(direct) and "failed" not in direct and through == direct
    assert sum(map(is_receipt, called[1][name])) == (name == SHOWS_A_RECEIPT)
