"""What people use: the official OpenAI client, in an environment of its own, pays with a token and streams;
`example.py` shows how.

The node is real, and so is its mint; the language model behind it is real where no pause of it is needed.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from scripts import realparts
from scripts.payer import Payer
from scripts.realparts import ROOT, Part
from tests.e2e.conftest import COST, Business
from tests.parts.upstream import DONE, chunk, usage

CLIENTS = ROOT / ".venv-clients" / "bin" / "python"
MODEL = ROOT / "tests" / "data" / "tiny.gguf"
STREAMING = """
import json, sys
from openai import OpenAI
client = OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2], max_retries=0)
said, ended = "", None
for chunk in client.chat.completions.create(model="tiny", stream=True, max_tokens=12, temperature=0,
        messages=[{"role": "user", "content": "the a of"}]):
    for choice in chunk.choices:
        said += choice.delta.content or ""
        ended = choice.finish_reason or ended
whole = client.chat.completions.with_raw_response.create(model="tiny", max_tokens=12, temperature=0,
        messages=[{"role": "user", "content": "the a of"}])
vectors = client.embeddings.create(model="tiny", input=["one", "two"])
print(json.dumps({"said": said, "ended": ended, "whole": whole.parse().choices[0].message.content,
    "cost": int(whole.headers["x-routstr-cost-msats"]), "vectors": len(vectors.data), "tokens": vectors.usage.prompt_tokens}))
"""
WITHOUT_MONEY = """
import sys
from openai import OpenAI, AuthenticationError, APIStatusError, BadRequestError
for key, model in ((sys.argv[2], "tiny"), ("sk-" + "0" * 64, "tiny")):
    client = OpenAI(base_url=sys.argv[1] + "/v1", api_key=key)
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}])
    except APIStatusError as error:
        print(error.status_code, error.code, error.type)
"""


@dataclass(frozen=True)
class Shop:
    """A node that sells the tiny model."""

    url: str
    mint: str


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    home = tmp_path_factory.mktemp("clients")
    mint, mint_url = realparts.mint(home / "mint")
    llm, llm_url = realparts.llm(home / "llm", MODEL, name="tiny", embeddings=True, threads=1)
    settings = {"CASHU_MINTS": mint_url, "STATE_DIR": str(home / "state"), "COST_PER_REQUEST": "0.011",
                "COST_PER_1K_INPUT_TOKENS": "3", "COST_PER_1K_OUTPUT_TOKENS": "7"}  # fmt: skip
    node, url = realparts.node(home / "node", llm_url, settings)
    started: list[Part] = []
    try:
        for part, ready in ((mint, f"{mint_url}/v1/info"), (llm, f"{llm_url}/health"), (node, f"{url}/v1/info")):
            started.append(part)
            part.start()
            part.wait_until(ready)
        yield Shop(url, mint_url)
    finally:
        for part in reversed(started):
            part.end()


def run_client(code: str, *arguments: str, home: Path) -> str:
    done = subprocess.run([CLIENTS, "-c", code, *arguments], capture_output=True, text=True, timeout=100,
                          env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_openai_client_pays_with_a_token_streams_and_is_charged_what_it_is_told(shop: Shop, tmp_path: Path) -> None:
    token = Payer(shop.mint).token(100)
    told = json.loads(run_client(STREAMING, shop.url, token, home=tmp_path))
    assert told["said"] and told["said"] == told["whole"] and told["ended"] in ("stop", "length")
    assert told["vectors"] == 2
    info = httpx.get(f"{shop.url}/v1/wallet/info", headers={"Authorization": f"Bearer {token}"}).json()
    embeddings = 11 + 3 * told["tokens"]
    assert info["total_spent"] == 2 * told["cost"] + embeddings, "a stream costs what the whole answer costs"
    assert info["balance"] == 100_000 - info["total_spent"] and info["total_requests"] == 3


def test_the_openai_client_raises_its_own_errors_for_ours(shop: Shop, tmp_path: Path) -> None:
    token = Payer(shop.mint).token(1)
    told = run_client(WITHOUT_MONEY, shop.url, token, home=tmp_path).split("\n")
    assert told[0] == "402 insufficient_balance insufficient_quota"
    assert told[1] == "401 invalid_api_key invalid_request_error"


# --- example.py -------------------------------------------------------------------------------------


def example(url: str, token: str | None, *arguments: str, home: Path, **more: str) -> subprocess.Popen[str]:
    """The example, as a person starts it, its input closed."""
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "ROUTSTR_API_URL": f"{url}/v1"} | more
    return subprocess.Popen(
        [CLIENTS, str(ROOT / "example.py"), *arguments], env=env | ({} if token is None else {"CASHU_TOKEN": token}),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def refused(business: Business, token: str | None, home: Path, url: str | None = None, **more: str) -> str:
    """What the example says where it can not pay: one line, and no traceback."""
    running = example(url or business.node.url, token, home=home, **more)
    out, err = running.communicate(timeout=100)
    assert running.returncode == 1 and err.count("\n") == 1, out + err
    return err


def test_the_example_streams_word_by_word_and_tells_its_cost_and_what_is_left(
    business: Business, tmp_path: Path
) -> None:
    go_on = threading.Event()
    ask = business.upstream.on(
        business.name(), chunk("first "), go_on, chunk("second "), chunk(None, "stop"),
        chunk(None, choices=[], usage=usage(7, 3)), DONE, kind="text/event-stream", chunked=True,
    )  # fmt: skip
    token = business.buyer.token(100)
    with example(business.node.url, token, ask, home=tmp_path) as running:
        assert running.stdout is not None
        seen = ""
        while not seen.endswith("first "):
            letter = running.stdout.read(1)
            assert letter, "the first word comes while the second is not made yet"
            seen += letter
        go_on.set()
        out, err = running.communicate(timeout=100)
    assert (running.returncode, err) == (0, "")
    assert "small" in seen and out.startswith("second \n")
    assert f"Cost: 0.0{COST} sat (" in out and "7 tokens in, 3 out" in out
    assert f"Left on the account that the token opened: {(100_000 - COST) / 1000} sat, 0.0{COST} sat spent." in out
    (curl,) = (line for line in out.splitlines() if line.strip().startswith("curl"))
    method, url = shlex.split(curl)[2:4]
    back = business.node.call(method, url.removeprefix(business.node.url), key=token).json()
    assert business.buyer.receive(back["token"]) == 99


def test_the_example_goes_on_with_the_same_token(business: Business, tmp_path: Path) -> None:
    token = business.buyer.token(10)
    for spent in (COST, 2 * COST):
        running = example(business.node.url, token, "Hello", "there!", home=tmp_path, MODEL="vendor/Big")
        out, err = running.communicate(timeout=100)
        assert (running.returncode, err) == (0, "")
        assert f"{(10_000 - spent) / 1000} sat, 0.{spent:03} sat spent." in out


def test_the_example_says_plainly_why_it_can_not_pay(business: Business, tmp_path: Path) -> None:
    assert "CASHU_TOKEN is empty" in refused(business, None, tmp_path)
    spent = business.buyer.token(10)
    business.buyer.receive(spent)
    assert "spent" in refused(business, spent, tmp_path)
    assert "sk- key" in refused(business, "sk-" + "0" * 64, tmp_path)
    assert "not on sale" in refused(business, business.buyer.token(10), tmp_path, MODEL="another")
    nobody = f"http://127.0.0.1:{realparts.free_port()}"
    assert f"No node answers at {nobody}/v1" in refused(business, spent, tmp_path, url=nobody)
    assert "is it a node's address" in refused(business, spent, tmp_path, url=business.mint)
