"""A whole business for the tests: mints, a scripted upstream, the node as a process, buyers."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts import realparts
from scripts.payer import Payer
from scripts.realparts import ROOT, Part
from tests.parts.upstream import Upstream, until

NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
UPSTREAM_KEY = "sk-UPSTREAM-credential-0123456789"
COST = 11 + 7 * 3 + 3 * 7
"""msat for the default answer: 7 tokens in at 3, 3 out at 7, 11 a request."""
MODELS = [
    {"id": "small", "context_length": 8192, "top_provider": {"max_completion_tokens": 256},
     "pricing": {"prompt": "0.000001", "completion": "0.000003"}},
    {"id": "vendor/Big", "context_length": 131072, "top_provider": {"max_completion_tokens": 16384},
     "pricing": {"prompt": "0.000002", "completion": "0.00001", "request": "0.0001"}},
]  # fmt: skip


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    broken: bool = False

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cost(self) -> int:
        """msat, from wherever this answer tells it."""
        told = self.header("x-routstr-cost-msats")
        if told is not None:
            return int(told)
        return int(self.receipt["total_msats"])

    @property
    def receipt(self) -> dict[str, Any]:
        """The `cost` object behind a stream's end."""
        last = self.body.rstrip().rsplit(b"\n\n", 1)[-1]
        found: dict[str, Any] = json.loads(last.removeprefix(b"data: "))["cost"]
        return found


class Node:
    """The product as a process, and a client of it."""

    def __init__(self, home: Path, upstream: str, settings: Mapping[str, str], options: Sequence[str] = (),
                 addon: Path | None = None) -> None:  # fmt: skip
        self.home, self.state = home, home / "state"
        self.port = realparts.free_port()
        self._make: Callable[[], tuple[Part, str]] = lambda: realparts.node(
            home / "node", upstream, settings, port=self.port, options=options, addon=addon
        )
        self.part, self.url = self._make()

    def start(self) -> Node:
        self.part.start()
        self.part.wait_until(f"{self.url}/v1/info")
        return self

    def stop(self) -> int:
        return self.part.end()

    def kill(self) -> None:
        """The proxy, at once; the wallet notices."""
        self.part.end(signal.SIGKILL)

    def restart(self) -> Node:
        self.part, self.url = self._make()
        return self.start()

    @property
    def wallet_pid(self) -> int:
        children = Path(f"/proc/{self.part.pid}/task/{self.part.pid}/children").read_text()
        return int(children.split()[0])

    def logs(self) -> str:
        wallet = self.state / "wallet" / "wallet.log"
        return self.part.logged() + (wallet.read_text() if wallet.exists() else "")

    def audit(self) -> tuple[int, str]:
        command = [sys.executable, str(ROOT / "scripts" / "audit.py"), str(self.state)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def proves(self) -> bool:
        """The books balance, and nothing is held."""
        code, told = self.audit()
        assert code == 0, told
        return True

    # --- as a client ------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, headers: Sequence[tuple[str, str]] = (),
             key: str | None = None, until_bytes: bytes | None = None, timeout_s: float = 30) -> Answer:  # fmt: skip
        """One request on its own connection. `until_bytes`: the client leaves as soon as it has read these."""
        fields = [*headers, *([("Authorization", f"Bearer {key}")] if key else [])]
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in fields:
                connection.putheader(name, value.encode("latin-1", "surrogateescape"))
            if data is not None:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            return read(connection.getresponse(), until_bytes)
        finally:
            connection.close()

    def chat(self, key: str | None, do: str = "", headers: Sequence[tuple[str, str]] = (), path: str = "/v1/chat/completions",
             until_bytes: bytes | None = None, **body: Any) -> Answer:  # fmt: skip
        message = {"role": "user", "content": do or "hello"}
        asked = {"model": "small", "messages": [message], "max_tokens": 50} | body
        return self.call("POST", path, {k: v for k, v in asked.items() if v is not ...}, headers, key, until_bytes)

    def create(self, token: str) -> Answer:
        return self.call("POST", "/v1/wallet/create", {"initial_balance_token": token})

    def info(self, key: str) -> dict[str, Any]:
        answer = self.call("GET", "/v1/wallet/info", key=key)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found

    def settled(self, key: str) -> dict[str, Any]:
        """The account once nothing of it is held any more."""
        found: dict[str, Any] = until(lambda: (i := self.info(key)) and not i["reserved"] and i, "the hold is closed")
        return found


def read(response: http.client.HTTPResponse, until_bytes: bytes | None = None) -> Answer:
    body = b""
    try:
        while piece := response.read1(65536):
            body += piece
            if until_bytes is not None and until_bytes in body:
                break
    except (http.client.HTTPException, OSError):
        return Answer(response.status, response.getheaders(), body, broken=True)
    return Answer(response.status, response.getheaders(), body)


@dataclass
class Business:
    """Everything that the tests of one worker share."""

    home: Path
    upstream: Upstream
    mint: str
    buyer: Payer
    node: Node
    names: Iterator[int]
    settings: dict[str, str]

    def name(self) -> str:
        return f"n{next(self.names)}"

    def account(self, sats: int = 100, node: Node | None = None) -> str:
        """A new account; its key."""
        answer = (node or self.node).create(self.buyer.token(sats))
        assert answer.status == 200, answer.body
        return str(answer.json()["api_key"])

    def forwarded(self) -> int:
        """How many requests the upstream has been sent, but for its own list of models."""
        return sum(not r.line.startswith("GET") for r in self.upstream.received)


@pytest.fixture(scope="session")
def business(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Business]:
    home = tmp_path_factory.mktemp("business")
    mint, mint_url = realparts.mint(home / "mint")
    upstream = Upstream()
    upstream.start()
    (home / "models.json").write_text(json.dumps({"data": MODELS}))
    settings = {
        "CASHU_MINTS": mint_url, "NSEC": NSEC, "UPSTREAM_API_KEY": UPSTREAM_KEY, "STATE_DIR": str(home / "state"),
        "MODELS_PATH": str(home / "models.json"), "COST_PER_REQUEST": "0.011", "COST_PER_1K_INPUT_TOKENS": "3",
        "COST_PER_1K_OUTPUT_TOKENS": "7", "BTC_USD": "100000", "NAME": "Test node",
    }  # fmt: skip
    node = Node(home, upstream.url, settings)
    try:
        mint.start()
        mint.wait_until(f"{mint_url}/v1/info")
        node.start()
        yield Business(home, upstream, mint_url, Payer(mint_url), node, itertools.count(), settings)
    finally:
        node.stop()
        mint.end()
        upstream.stop()


@pytest.fixture
def own(business: Business, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Makes nodes with settings of their own, ended afterwards. A secret of its own for each directory."""
    made: list[Node] = []

    def make(
        options: Sequence[str] = (), addon: Path | None = None, upstream: str | None = None, **changes: str
    ) -> Node:
        home = tmp_path / f"own{len(made)}"
        secret = os.urandom(32).hex()
        settings = business.settings | {"STATE_DIR": str(home / "state"), "NSEC": secret} | changes
        node = Node(home, upstream or business.upstream.url, settings, options, addon)
        made.append(node)
        return node

    yield make
    for node in made:
        node.stop()
