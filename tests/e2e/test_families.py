"""Every family that is sold, on a real model: the same figures streamed and whole, a receipt that its own clients
do not stumble over, and nothing free for a client that leaves."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import realparts
from scripts.realparts import ROOT
from tests.e2e.conftest import Answer, Business, Node

CLIENTS = ROOT / ".venv-clients" / "bin" / "python"
MODEL = ROOT / "tests" / "data" / "tiny.gguf"
MESSAGES = [{"role": "user", "content": "the a of"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 12},
    "/v1/completions": {"prompt": "the a of", "max_tokens": 12},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 12},
    "/v1/responses": {"input": "the a of", "max_output_tokens": 12},
}
LAST = {
    "/v1/chat/completions": b"data: [DONE]\n\n",
    "/v1/completions": b"data: [DONE]\n\n",
    "/v1/messages": b'{"type":"message_stop"}\n\n',
    "/v1/responses": b"event: response.completed",
}
ANTHROPIC = """
import json, sys
from anthropic import Anthropic
client = Anthropic(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)
ask = dict(model="tiny", max_tokens=12, extra_body={"temperature": 0}, messages=[{"role": "user", "content": "the a of"}])
with client.messages.stream(**ask) as stream:
    said = "".join(stream.text_stream)
    streamed = stream.get_final_message()
whole = client.messages.with_raw_response.create(**ask)
print(json.dumps({"said": said, "tokens": streamed.usage.output_tokens, "whole": whole.parse().content[0].text,
    "cost": int(whole.headers["x-routstr-cost-msats"])}))
"""
RESPONSES = """
import json, sys
from openai import OpenAI
client = OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2], max_retries=0)
ask = dict(model="tiny", max_output_tokens=12, temperature=0, input="the a of")
said, tokens = "", None
for event in client.responses.create(stream=True, **ask):
    said += event.delta if event.type == "response.output_text.delta" else ""
    tokens = event.response.usage.output_tokens if event.type == "response.completed" else tokens
whole = client.responses.with_raw_response.create(**ask)
print(json.dumps({"said": said, "tokens": tokens, "whole": whole.parse().output_text,
    "cost": int(whole.headers["x-routstr-cost-msats"])}))
"""


@pytest.fixture(scope="module")
def node(business: Business, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that sells a real language model."""
    home = tmp_path_factory.mktemp("families")
    model, url = realparts.llm(home / "llm", MODEL, name="tiny", threads=1)
    listed = home / "models.json"
    listed.write_text(json.dumps({"data": [{"id": "tiny", "context_length": 4096}]}))
    own = {"STATE_DIR": str(home / "state"), "NSEC": os.urandom(32).hex(), "MODELS_PATH": str(listed)}
    selling = Node(home / "node", url, business.settings | own)
    try:
        model.start()
        model.wait_until(f"{url}/health")
        yield selling.start()
    finally:
        selling.stop()
        model.end()


def asked(node: Node, key: str, path: str, until_bytes: bytes | None = None, **more: Any) -> Answer:
    body = {"model": "tiny", "temperature": 0} | ASKED[path] | more
    return node.call("POST", path, body, key=key, until_bytes=until_bytes)


def receipt(answer: Answer) -> dict[str, Any]:
    """What follows the family's own last event."""
    data = answer.body.rstrip().rsplit(b"data: ", 1)[-1]
    found: dict[str, Any] = json.loads(data)["cost"]
    return found


@pytest.mark.parametrize("path", ASKED)
def test_a_stream_costs_what_the_whole_answer_costs(business: Business, node: Node, path: str) -> None:
    key = business.account(node=node)
    whole, streamed = asked(node, key, path), asked(node, key, path, stream=True)
    assert (whole.status, streamed.status) == (200, 200), whole.body + streamed.body
    told = receipt(streamed)
    assert (told["usage_source"], told["output_tokens"]) == ("reported", 12)
    assert told["total_msats"] == whole.cost == 11 + 3 * told["input_tokens"] + 7 * 12
    behind = streamed.body[streamed.body.rindex(LAST[path]) :].removeprefix(LAST[path])
    assert behind.count(b'"cost":') == 1
    assert node.settled(key)["balance"] == 100_000 - 2 * whole.cost


@pytest.mark.parametrize("path", ASKED)
def test_a_client_that_leaves_pays_for_what_came(business: Business, node: Node, path: str) -> None:
    """(Incident 37.)"""
    key = business.account(node=node)
    cap = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    asked(node, key, path, until_bytes=b"delta" if path != "/v1/completions" else b"text", stream=True, **{cap: 2000})
    spent = 100_000 - node.settled(key)["balance"]
    assert 11 < spent < 11 + 3 * 200 + 7 * 2000


def run_client(code: str, node: Node, key: str, home: Path) -> dict[str, Any]:
    done = subprocess.run([CLIENTS, "-c", code, node.url, key], capture_output=True, text=True, timeout=100,
                          env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("code", [ANTHROPIC, RESPONSES], ids=["anthropic", "openai responses"])
def test_official_clients_stream_through_the_node_unchanged(
    business: Business, node: Node, tmp_path: Path, code: str
) -> None:
    key = business.account(node=node)
    told = run_client(code, node, key, tmp_path)
    assert told["said"] == told["whole"] and told["said"]
    assert told["tokens"] == 12
    assert node.settled(key)["balance"] == 100_000 - 2 * told["cost"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_a_client_may_do_without_a_receipt(business: Business, node: Node, path: str) -> None:
    key = business.account(node=node)
    body = {"model": "tiny", "stream": True} | ASKED[path]
    answer = node.call("POST", path, body, key=key, headers=[("X-Routstr-Receipt", "none")])
    assert answer.status == 200 and b"cost" not in answer.body


def test_ollamas_lines_pass_unchanged_and_its_last_one_is_charged(business: Business) -> None:
    key, name = business.account(), business.name()
    words = [
        {"model": "small", "message": {"role": "assistant", "content": f"word{i}"}, "done": False} for i in range(9)
    ]
    last = {"model": "small", "message": {"content": ""}, "done": True, "prompt_eval_count": 26, "eval_count": 9}
    lines = [json.dumps(line).encode() + b"\n" for line in (*words, last)]
    do = business.upstream.on(name, *lines, kind="application/x-ndjson", chunked=True)
    ask = {"model": "small", "messages": [{"role": "user", "content": do}], "keep_alive": -1}
    answer = business.node.call("POST", "/api/chat", ask, key=key)
    assert (answer.status, answer.body) == (200, b"".join(lines)), "nothing is appended"
    (sent,) = business.upstream.seen(name)
    assert sent.line.startswith("POST /api/chat ")
    assert sent.json()["options"] == {"num_predict": 256} and "keep_alive" not in sent.json()
    assert business.node.settled(key)["balance"] == 100_000 - (11 + 3 * 26 + 7 * 9)


def test_ollamas_stream_that_ends_without_figures_is_counted(business: Business) -> None:
    """Its guard against repeats ends a stream so, and a buyer can provoke it. (Incident 37.)"""
    key, name = business.account(), business.name()
    line = json.dumps({"model": "small", "message": {"content": " again"}, "done": False}).encode() + b"\n"
    do = business.upstream.on(name, *[line] * 31, kind="application/x-ndjson", chunked=True)
    business.node.call("POST", "/api/chat", {"model": "small", "messages": [{"content": do}]}, key=key)
    assert 100_000 - business.node.settled(key)["balance"] > 11 + 7 * 31


def test_a_reranker_is_charged_what_it_reports(business: Business) -> None:
    key, name = business.account(), business.name()
    scores = b'{"results":[{"index":0,"relevance_score":0.9}],"usage":{"total_tokens":40}}'
    do = business.upstream.on(name, scores)
    answer = business.node.call("POST", "/v1/rerank", {"model": "small", "query": do, "documents": ["a", "b"]}, key=key)
    assert (answer.status, answer.body, answer.cost) == (200, scores, 11 + 3 * 40)


def test_a_picture_is_charged_what_it_reports(business: Business) -> None:
    key, name = business.account(1000), business.name()
    tokens = {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210}
    picture = json.dumps({"data": [{"b64_json": "A" * 600_000}], "usage": tokens}).encode()
    do = business.upstream.on(name, picture)
    answer = business.node.call("POST", "/v1/images/generations", {"model": "small", "prompt": do}, key=key)
    assert (answer.status, answer.body == picture, answer.cost) == (200, True, 11 + 3 * 50 + 7 * 4160)


def test_speech_passes_as_it_comes_and_costs_its_characters(business: Business) -> None:
    key, name = business.account(1000), business.name()
    sound = (b"ID3", bytes(range(256)) * 200, b"\n\n\r\r")
    do = business.upstream.on(name, *sound, kind="audio/mpeg", chunked=True)
    body = json.dumps({"model": "small", "input": do, "voice": "alloy"}).encode()
    answer = business.node.call("POST", "/v1/audio/speech", body, key=key)
    assert (answer.status, answer.body, answer.header("x-routstr-cost-msats")) == (200, b"".join(sound), None)
    business.node.settled(key)
    receipt = business.node.call("GET", f"/v1/receipts/{answer.header('x-routstr-request-id')}", key=key).json()
    assert receipt["usage_source"] == "counted"
    assert receipt["total_msats"] == 11 + 3 * -(-len(body) // 3) + 7 * 2 * len(do)


def test_anthropics_own_key_goes_where_it_is_looked_for_and_stays_in_no_flow(
    business: Business, own: Callable[..., Node], tmp_path: Path
) -> None:
    secret, kept, name = "sk-ant-UPSTREAM-0123456789", tmp_path / "flows", business.name()
    node = own(["-w", str(kept)], UPSTREAM_API_KEY=secret).start()
    key = business.account(node=node)
    usage = {"input_tokens": 7, "output_tokens": 3}
    message = {
        "type": "message",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": usage,
    }
    do = business.upstream.on(name, json.dumps(message).encode())
    for path in ("/v1/messages", "/v1/chat/completions"):
        ask = {"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": do}]}
        assert node.call("POST", path, ask, headers=[("x-api-key", key)]).status == 200
    sent = [(r.header("x-api-key"), r.header("authorization")) for r in business.upstream.seen(name)]
    assert sent == [(secret, None), (None, f"Bearer {secret}")]
    node.stop()
    assert kept.stat().st_size > 0 and secret.encode() not in kept.read_bytes()
