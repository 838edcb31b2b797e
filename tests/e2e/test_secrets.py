"""No secret is written anywhere: planted markers, and then everything is searched for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import UPSTREAM_KEY, Business, Node
from tests.parts.upstream import stream, whole

ADMIN_PASSWORD = "planted-Admin-Passw0rd!"


def traffic(node: Node, business: Business) -> dict[str, str]:
    """A bit of everything that a node does; the secrets that were used."""
    tokens = [business.buyer.token(20 + n) for n in range(6)]
    key = node.create(tokens[0]).json()["api_key"]
    node.chat(tokens[1])
    node.chat(
        key, business.upstream.on(business.name(), *stream(), kind="text/event-stream", chunked=True), stream=True
    )
    node.call("POST", "/v1/wallet/topup", {"cashu_token": tokens[2]}, key=key)
    node.call("GET", f"/v1/wallet/create?initial_balance_token={tokens[3]}")
    node.call("POST", f"/v1/wallet/topup?cashu_token={tokens[4]}", key=key)
    node.chat(None, headers=[("X-Cashu", tokens[5])])
    node.chat(None, headers=[("x-api-key", key)])
    node.chat(key, model="nope")
    node.chat(key, business.upstream.on(business.name(), whole(), status=500))
    node.chat(key, business.upstream.on(business.name(), "cut-head"))
    node.chat("sk-" + "e" * 64)
    node.create(tokens[0][:-8] + "AAAAAAAA")
    node.call("GET", "/v1/nope", key=key)
    node.settled(key)
    changed = node.call("POST", "/balance/rotate", key=key).json()["api_key"]
    refund = node.call("POST", "/v1/wallet/refund", key=changed).json()["token"]
    return {f"token {n}": token for n, token in enumerate(tokens)} | {
        "key": key, "changed key": changed, "refund": refund, "upstream key": UPSTREAM_KEY, "admin password": ADMIN_PASSWORD, "unknown key": "sk-" + "e" * 64,
    }  # fmt: skip


def found_in(text: bytes, secrets: dict[str, str]) -> list[str]:
    """Which secrets stand there, whole or in a long piece."""
    return [
        name
        for name, value in secrets.items()
        if value.encode() in text or (len(value) > 60 and value[20:60].encode() in text)
    ]


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory, business: Business) -> tuple[Node, dict[str, str], Path]:
    """A node that has seen all that traffic, with its flows written to a file; stopped."""
    home = tmp_path_factory.mktemp("secrets")
    flows = home / "flows"
    nsec = business.settings["NSEC"]
    settings = business.settings | {"STATE_DIR": str(home / "state"), "ADMIN_PASSWORD": ADMIN_PASSWORD}
    node = Node(home, business.upstream.url, settings, ("-w", str(flows))).start()
    secrets = traffic(node, business) | {
        "nsec": nsec,
        "nsec in hex": "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa",
    }
    node.stop()
    return node, secrets, flows


def test_the_logs_hold_no_secret(spent: tuple[Node, dict[str, str], Path]) -> None:
    node, secrets, _ = spent
    assert found_in(node.logs().encode(), secrets) == []


def test_a_flow_file_holds_no_secret_and_shows_the_traffic(spent: tuple[Node, dict[str, str], Path]) -> None:
    """Also of the calls whose bodies are tokens and keys."""
    _, secrets, flows = spent
    written = flows.read_bytes()
    assert found_in(written, secrets) == []
    assert b"/v1/chat/completions" in written and b"/v1/wallet/create" in written


def test_the_state_directory_holds_no_secret_and_is_the_operators_alone(
    spent: tuple[Node, dict[str, str], Path],
) -> None:
    """(Incident 63: the database held spendable keys and tokens.)"""
    node, secrets, _ = spent
    files = [f for f in node.state.rglob("*") if f.is_file()]
    assert any(f.name == "ledger.db" for f in files)
    assert {f.name: found_in(f.read_bytes(), secrets) for f in files if found_in(f.read_bytes(), secrets)} == {}
    assert [f.name for f in files if f.stat().st_mode & 0o077] == [] or node.state.stat().st_mode & 0o077 == 0


def test_a_proofs_secret_is_not_in_the_ledger(spent: tuple[Node, dict[str, str], Path]) -> None:
    """A copy of the file spends nothing: neither clients' coins nor our own."""
    from addon.tokens import decode

    node, secrets, _ = spent
    ledger = (node.state / "ledger.db").read_bytes()
    for name, token in secrets.items():
        if name.startswith("token") or name == "refund":
            assert not [p for p in decode(token).proofs if p.secret.encode() in ledger], name
