"""Forms with files in them: recordings and pictures reach the upstream as they were sent and are charged as it says,
and no second reading of a form gets by."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from addon import forms
from addon.forms import File
from addon.metering import family_of
from scripts.realparts import ROOT
from tests.e2e.conftest import Answer, Business, Node
from tests.parts.upstream import Received

CLIENTS = ROOT / ".venv-clients" / "bin" / "python"
RATE = 8000
WAV = struct.pack("<4sL4s4sLHHLLHH4sL", b"RIFF", 36 + RATE, b"WAVE", b"fmt ", 16, 1, 1, RATE, RATE, 1, 8, b"data", RATE)
SOUND = WAV + bytes(i % 251 for i in range(RATE - 64)) + b"\r\n--XX--\r\n\r\n--XX\r\n"
HEARD = {
    "text": "hello",
    "usage": {
        "type": "tokens",
        "input_tokens": 14,
        "input_token_details": {"audio_tokens": 4},
        "output_tokens": 5,
        "total_tokens": 19,
    },
}
EVENTS = (
    b'data: {"type":"transcript.text.delta","delta":"hel"}\n\n',
    b'data: {"type":"transcript.text.delta","delta":"lo"}\n\n',
    b"data: " + json.dumps({"type": "transcript.text.done"} | HEARD).encode() + b"\n\n",
)
CLIENT = """
import io, json, sys
from openai import OpenAI
client = OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2], max_retries=0)
sound, whole, stream, edit = open(sys.argv[3], "rb"), *sys.argv[4:]
text = client.audio.transcriptions.with_raw_response.create(model="small", file=sound, prompt=whole,
    response_format="verbose_json", timestamp_granularities=["word", "segment"], temperature=0.5)
sound.seek(0)
said = "".join(event.delta for event in client.audio.transcriptions.create(model="small", file=sound, prompt=stream,
    stream=True) if event.type == "transcript.text.delta")
pictures = [("a.png", b"one", "image/png"), ("b.png", b"two", "image/png")]
made = client.images.edit(model="small", image=pictures, prompt=edit, n=2)
print(json.dumps({"text": text.parse().text, "cost": int(text.headers["x-routstr-cost-msats"]), "said": said,
    "pictures": len(made.data)}))
"""


def form(do: str, **fields: Any) -> bytes:
    return forms.written({"model": "small", "file": File("audio/wav", ".wav", SOUND), "prompt": do} | fields, "XYZ")


def heard(node: Node, key: str | None, body: bytes, *headers: tuple[str, str]) -> Answer:
    kind = ("Content-Type", forms.content_type("XYZ"))
    return node.call("POST", "/v1/audio/transcriptions", body, [kind, *headers], key=key)


def fields_of(sent: Received, path: str = "/v1/audio/transcriptions") -> dict[str, Any]:
    """What the upstream reads."""
    family = family_of(path)
    assert family is not None and family.form is not None
    return forms.read(sent.body, sent.header("content-type") or "", family.form)


@pytest.mark.parametrize("folded", [False, True])
def test_a_recording_arrives_whole_and_costs_what_the_answer_tells(business: Business, folded: bool) -> None:
    key, name, answer = business.account(), business.name(), json.dumps(HEARD).encode()
    do = business.upstream.on(name, answer)
    body = form(do, language="de", max_tokens="1")
    got = heard(business.node, key, gzip.compress(body) if folded else body, *[("Content-Encoding", "gzip")] * folded)
    assert (got.status, got.body, got.cost) == (200, answer, 11 + 3 * 14 + 7 * 5)
    assert got.header("x-routstr-dropped-params") == "max_tokens"
    (sent,) = business.upstream.seen(name)
    assert b"--XYZ" not in sent.body and sent.line.startswith("POST /v1/audio/transcriptions ")
    assert fields_of(sent) == {
        "model": "small", "file": File("audio/wav", ".wav", SOUND), "prompt": do, "language": "de",
    }  # fmt: skip
    assert business.node.settled(key)["balance"] == 100_000 - got.cost


def test_a_transcripts_stream_passes_as_it_comes_and_its_receipt_can_be_asked_for(business: Business) -> None:
    key, do = business.account(), business.upstream.on(business.name(), *EVENTS, kind="text/event-stream", chunked=True)
    got = heard(business.node, key, form(do, stream=True))
    assert (got.status, got.body) == (200, b"".join(EVENTS)), "nothing is appended"
    business.node.settled(key)
    told = business.node.call("GET", f"/v1/receipts/{got.header('x-routstr-request-id')}", key=key).json()
    assert (told["usage_source"], told["total_msats"]) == ("reported", 11 + 3 * 14 + 7 * 5)


def test_a_text_that_reads_like_figures_or_an_error_is_paid_for_as_text(business: Business) -> None:
    """(Incident 37.)"""
    key = business.account()
    for text in (b'{"error": 1, "usage": {"input_tokens": 1, "output_tokens": 1}}', b"error: so he said\n"):
        got = heard(business.node, key, form(business.upstream.on(business.name(), text, kind="text/plain"),
                                             response_format="text"))  # fmt: skip
        assert (got.status, got.body) == (200, text)
        assert got.cost > 11 + 3 * 10 + 7 * (len(text) // 4)
    business.node.settled(key)


def test_a_large_recording_is_served_and_a_poor_account_is_told_what_it_needs(business: Business) -> None:
    do = business.upstream.on(business.name(), json.dumps(HEARD).encode())
    large = form(do, file=File("audio/mpeg", ".mp3", bytes(3_000_000)))
    short = heard(business.node, business.account(100), large)
    assert (short.status, short.json()["error"]["code"]) == (402, "insufficient_balance")
    assert heard(business.node, business.account(5000), large).cost == 11 + 3 * 14 + 7 * 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\r\n--XYZ--\r\n", b'\r\n--XYZ\r\nContent-Disposition: form-data; name="model"\r\n\r\ndear\r\n--XYZ--\r\n'),
        (b'name="model"', b'name="model"; filename="x"'),
        (b"Content-Type: audio/wav", b"Content-Type: multipart/mixed; boundary=Q"),
        (b'filename="file', b'filename="fi\tle'),
        (b'name="file"; filename="file.wav"', b'name="sound"'),
    ],
)
def test_a_form_that_can_be_read_in_two_ways_goes_nowhere(business: Business, old: bytes, new: bytes) -> None:
    key, name = business.account(), business.name()
    body = form(business.upstream.on(name))
    got = heard(business.node, key, body.replace(old, new))
    assert (got.status, got.json()["error"]["code"]) == (400, "invalid_parameter") and body.count(old) == 1
    assert not business.upstream.seen(name) and business.node.info(key)["balance"] == 100_000


def test_a_model_with_a_price_by_the_second_is_sold_for_that_alone(
    business: Business, own: Callable[..., Node], tmp_path: Path
) -> None:
    listed = tmp_path / "models.json"
    ear = {"id": "small", "pricing": {"prompt": "0", "completion": "0", "second": "0.0001"}}
    listed.write_text(json.dumps({"data": [ear]}))
    node = own(MODEL_BASED_PRICING="true", MODELS_PATH=str(listed), BTC_USD="100000",
               EXCHANGE_FEE="1", UPSTREAM_PROVIDER_FEE="1").start()  # fmt: skip
    key, told = business.account(1000, node), {"text": "hi", "usage": {"type": "duration", "seconds": 1}}
    got = heard(node, key, form(business.upstream.on(business.name(), json.dumps(told).encode())))
    assert (got.status, got.cost) == (200, 100), "a hundred msat are 0.0001 USD"
    assert node.chat(key).json()["error"]["code"] == "model_not_found"


def test_the_openai_client_sends_its_files_through_the_node(business: Business, tmp_path: Path) -> None:
    names = [business.name() for _ in range(3)]
    made = {"data": [{"b64_json": "AA"}] * 2, "created": 1, "usage": {"input_tokens": 50, "output_tokens": 90}}
    asks = [
        business.upstream.on(
            names[0], json.dumps(HEARD | {"duration": 1.0, "language": "en", "segments": []}).encode()
        ),
        business.upstream.on(names[1], *EVENTS, kind="text/event-stream", chunked=True),
        business.upstream.on(names[2], json.dumps(made).encode()),
    ]
    key, sound = business.account(2000), tmp_path / "my voice.wav"
    sound.write_bytes(SOUND)
    done = subprocess.run([CLIENTS, "-c", CLIENT, business.node.url, key, sound, *asks], capture_output=True, text=True,
                          timeout=100, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    price = 11 + 3 * 14 + 7 * 5
    assert json.loads(done.stdout) == {"text": "hello", "cost": price, "said": "hello", "pictures": 2}
    assert business.node.settled(key)["balance"] == 2_000_000 - 2 * price - (11 + 3 * 50 + 7 * 90)
    first, _, last = (business.upstream.seen(name)[0] for name in names)
    assert fields_of(first)["file"].content == SOUND and b"my voice" not in first.body
    assert fields_of(first)["timestamp_granularities[]"] == ["word", "segment"]
    sent = forms.files(fields_of(last, "/v1/images/edits"), "image[]")
    assert [picture.content for picture in sent] == [b"one", b"two"]
