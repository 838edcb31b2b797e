"""Every row of the table of errors that applies, provoked and checked by one function."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from addon.replies import STATUSES
from addon.tokens import Proof, encode
from scripts import realparts
from scripts.payer import Payer
from tests.e2e.conftest import Answer, Business, Node
from tests.parts.upstream import until, whole


def told(answer: Answer, status: int, type_: str, code: str) -> dict[str, Any]:
    """The one envelope, with all that clients and SDKs read of it."""
    assert answer.status == status, answer.body[:300]
    body = answer.json()
    error: dict[str, Any] = body["error"]
    assert body["detail"]["error"] == error and (error["type"], error["code"]) == (type_, code)
    assert error["message"] and "Traceback" not in error["message"]
    assert body["request_id"] == answer.header("x-routstr-request-id")
    if status in (503, 425, 429):
        assert int(answer.header("retry-after") or 0) > 0
    elif 400 <= status < 500:
        assert answer.header("x-should-retry") == "false"
    assert "json" in (answer.header("content-type") or "")
    assert answer.header("access-control-allow-origin") == "*"
    return error


@pytest.fixture
def unpaid(business: Business) -> Any:
    """Afterwards: the upstream has not been asked."""
    before = business.forwarded()
    yield
    assert business.forwarded() == before, "forwarded although refused"


REQUEST = "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/wallet/info", "/v1/wallet/topup", "/v1/wallet/refund"])
def test_no_credential(business: Business, unpaid: None, path: str) -> None:
    answer = (
        business.node.chat(None)
        if "chat" in path
        else business.node.call("GET" if "info" in path else "POST", path, {})
    )
    told(answer, 402, "insufficient_quota", "payment_required")


@pytest.mark.parametrize("secret", ["sk-" + "0" * 64, "sk-", "hello", "x" * 4000, "sk-' OR 1=1 --"])
def test_an_unknown_or_malformed_key(business: Business, unpaid: None, secret: str) -> None:
    error = told(business.node.chat(secret), 401, REQUEST, "invalid_api_key")
    assert secret not in error["message"] or len(secret) < 6


def test_two_authorization_headers(business: Business, unpaid: None) -> None:
    headers = [("Authorization", f"Bearer {business.account(5)}"), ("Authorization", f"Bearer {business.account(5)}")]
    told(business.node.chat(None, headers=headers), 400, REQUEST, "ambiguous_credential")


def test_two_accounts_in_two_headers(business: Business, unpaid: None) -> None:
    headers = [("x-api-key", business.account(5))]
    told(business.node.chat(business.account(5), headers=headers), 400, REQUEST, "ambiguous_credential")


def test_a_balance_too_small(business: Business, unpaid: None) -> None:
    key = business.account(1)
    error = told(business.node.chat(key), 402, "insufficient_quota", "insufficient_balance")
    assert error["amount_required_msat"] > error["available_msat"] == 1000
    assert business.node.info(key)["balance"] == 1000


def test_a_token_too_small_is_not_redeemed(business: Business, unpaid: None) -> None:
    token = business.buyer.token(1)
    told(business.node.chat(token), 402, "insufficient_quota", "insufficient_balance")
    assert business.buyer.states(token) == {"UNSPENT"}


def test_an_expired_key_pays_no_more_but_is_refunded(business: Business, unpaid: None) -> None:
    body, expiry = {"initial_balance_token": business.buyer.token(20)}, int(time.time()) + 3
    created = business.node.call("POST", "/v1/wallet/create", body, [("Key-Expiry-Time", str(expiry))])
    key = created.json()["api_key"]
    until(lambda: time.time() > expiry, "the key has expired")
    told(business.node.chat(key), 403, REQUEST, "key_expired")
    refund = business.node.call("POST", "/v1/wallet/refund", key=key)
    assert refund.status == 200 and business.buyer.receive(refund.json()["token"]) == 20


@pytest.mark.parametrize("where", ["create", "bearer", "topup"])
def test_a_token_spent_elsewhere(business: Business, unpaid: None, where: str) -> None:
    token = business.buyer.token(30)
    business.buyer.receive(token)
    told(_present(business, token, where), 400, "token_already_spent", "cashu_token_already_spent")


@pytest.mark.parametrize("where", ["create", "bearer", "topup"])
@pytest.mark.parametrize("text", ["cashuB", "cashuB!!!", "cashuA" + "e30", "cashuBpGFt" + "A" * 500])
def test_an_unreadable_token(business: Business, unpaid: None, where: str, text: str) -> None:
    told(_present(business, text, where), 400, "invalid_token", "invalid_cashu_token")


def test_a_token_without_value(business: Business, unpaid: None) -> None:
    told(business.node.create(encode(business.mint, "sat", [])), 400, "cashu_error", "cashu_token_zero_value")


def test_a_mint_that_is_not_accepted_is_never_contacted(business: Business, unpaid: None) -> None:
    """(Incident 10: the mint that a token named was contacted blindly.)"""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    token = encode(url, "sat", [Proof("00" + "a" * 14, 64, "s" * 64, "02" + "11" * 32)])
    error = told(business.node.chat(token), 400, "invalid_token", "cashu_mint_not_accepted")
    assert business.mint in str(error)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.close()


def test_proofs_that_the_mint_never_signed(business: Business, unpaid: None) -> None:
    """(Incident 6: an orphan account.)"""
    keyset = business.buyer._keyset
    token = encode(business.mint, "sat", [Proof(keyset, 64, "f" * 64, "02" + "11" * 32)])
    answer = business.node.create(token)
    assert 400 <= answer.status < 500
    assert business.node.call("GET", "/v1/wallet/info", key=token).status != 200


def test_fees_that_eat_the_token(own: Callable[..., Node], tmp_path: Any) -> None:
    mint, url = realparts.mint(tmp_path / "dear-mint", fee_ppk=1000)
    mint.start()
    try:
        mint.wait_until(f"{url}/v1/info")
        token = Payer(url).token(1)
        node = own(CASHU_MINTS=url).start()
        told(node.create(token), 422, "mint_error", "cashu_token_swap_fees_exceed_amount")
        assert Payer(url).states(token) == {"UNSPENT"}
    finally:
        mint.end()


def test_a_mint_that_is_down(own: Callable[..., Node], business: Business, tmp_path: Any) -> None:
    mint, url = realparts.mint(tmp_path / "mint")
    mint.start()
    mint.wait_until(f"{url}/v1/info")
    token = Payer(url).token(10)
    mint.end()
    node = own(CASHU_MINTS=f"{url},{business.mint}").start()
    told(node.create(token), 503, "mint_unreachable", "cashu_mint_unreachable")
    assert node.create(business.buyer.token(5)).status == 200, "one bad mint stops no other (incident 55)"


@pytest.mark.parametrize("model", ["nope", "", None, 5, ["small"]])
def test_an_unknown_model(business: Business, unpaid: None, model: object) -> None:
    told(business.node.chat(business.account(5), model=model), 400, "invalid_model", "model_not_found")


@pytest.mark.parametrize(
    "raw", [b"{", b"", b"[1]", b'{"model":"small","model":"vendor/Big"}', b"\xff", b'{"model":NaN}']
)
def test_a_body_that_is_not_strict_json(business: Business, unpaid: None, raw: bytes) -> None:
    answer = business.node.call("POST", "/v1/chat/completions", raw, key=business.account(5))
    told(answer, 400, REQUEST, "invalid_json")


@pytest.mark.parametrize("cap", [-1, 0, 2.5, "5", True, 10**30 * -1, [1]])
def test_a_cap_that_is_no_number_of_tokens(business: Business, unpaid: None, cap: object) -> None:
    told(business.node.chat(business.account(5), max_tokens=cap), 400, REQUEST, "invalid_parameter")


@pytest.mark.parametrize(
    "field", [{"n": 2}, {"service_tier": "priority"}, {"web_search_options": {}}, {"tools": [{"type": "web_search"}]}]
)
def test_a_field_that_multiplies_the_price(business: Business, unpaid: None, field: dict[str, Any]) -> None:
    error = told(business.node.chat(business.account(5), **field), 400, REQUEST, "unsupported_parameter")
    assert error["param"] in field


@pytest.mark.parametrize("method, path", [("POST", "/v1/nope"), ("GET", "/v1/chat/completions"), ("POST", "/slots"), ("GET", "/v1/stream"),
                                          ("DELETE", "/v1/models"), ("POST", "/v1/wallet/nope"), ("post", "/v1/chat/completions")])  # fmt: skip
def test_a_path_that_is_not_offered(business: Business, unpaid: None, method: str, path: str) -> None:
    told(business.node.call(method, path, {}, key=business.account(5)), 404, "not_found", "path_not_found")


def test_a_body_that_is_too_large_is_refused_before_it_came(business: Business, unpaid: None) -> None:
    headers = [("Content-Length", str(64 << 20)), ("Authorization", f"Bearer {business.account(5)}")]
    told(business.node.call("POST", "/v1/chat/completions", None, headers), 413, REQUEST, "body_too_large")


def test_a_chunked_body_that_grows_too_large(own: Callable[..., Node], business: Business, unpaid: None) -> None:
    node = own(MAX_BODY_BYTES="20000").start()
    piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    key = business.account(5, node).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nx-api-key: " + key
    answer = raw(node, head + b"\r\n\r\n" + piece + piece)
    assert b" 413 " in answer.split(b"\r\n")[0] and b"body_too_large" in answer


def test_an_encoding_that_is_not_understood(business: Business, unpaid: None) -> None:
    answer = business.node.chat(business.account(5), headers=[("Content-Encoding", "zz")])
    told(answer, 415, REQUEST, "unsupported_encoding")


def test_a_websocket_is_refused_at_once(business: Business, unpaid: None) -> None:
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    told(business.node.call("GET", "/v1/responses", None, headers), 426, REQUEST, "upgrade_not_supported")


def test_a_single_payments_token_for_nothing_on_offer_comes_back_untouched(business: Business, unpaid: None) -> None:
    """It never falls through to the other credential."""
    token, key = business.buyer.token(40), business.account(50)
    headers = [("X-Cashu", token), ("Authorization", f"Bearer {key}")]
    answer = business.node.call("POST", "/v1/nope", {"model": "small", "messages": []}, headers)
    told(answer, 404, "not_found", "path_not_found")
    assert answer.header("x-cashu") == token
    assert business.buyer.states(token) == {"UNSPENT"} and business.node.info(key)["balance"] == 50_000


def test_a_refund_of_nothing(business: Business, unpaid: None) -> None:
    key = business.account(5)
    business.node.call("POST", "/v1/wallet/refund", key=key)
    assert business.node.info(key)["balance"] == 0
    token = business.buyer.token(7)
    answer = business.node.call("POST", "/v1/wallet/refund", key=token)
    told(answer, 401, REQUEST, "invalid_api_key")
    assert business.buyer.states(token) == {"UNSPENT"}, "a refund call never redeems (incident 6)"


@pytest.mark.parametrize(
    "header, value",
    [("Key-Expiry-Time", "soon"), ("Key-Expiry-Time", "-5"), ("Key-Expiry-Time", "9" * 30), ("Refund-LNURL", "nope")],
)
def test_bad_terms_of_an_account_take_no_token(business: Business, unpaid: None, header: str, value: str) -> None:
    token = business.buyer.token(5)
    answer = business.node.call("POST", "/v1/wallet/create", {"initial_balance_token": token}, [(header, value)])
    told(answer, 400, REQUEST, "invalid_parameter")
    assert business.buyer.states(token) == {"UNSPENT"}


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
def test_an_upstreams_refusal_passes_as_it_is_and_costs_nothing(business: Business, status: int) -> None:
    key, said = business.account(50), b'{"error":{"message":"up says no"}}'
    do = business.upstream.on(business.name(), said, status=status, headers=(("Retry-After", "3"),))
    answer = business.node.chat(key, do)
    assert (answer.status, answer.body, answer.header("retry-after")) == (status, said, "3")
    assert business.node.settled(key)["balance"] == 50_000


@pytest.mark.parametrize("status", [301, 401, 402, 403])
def test_an_upstreams_refusal_of_the_operator_is_not_shown(business: Business, status: int) -> None:
    key = business.account(50)
    do = business.upstream.on(
        business.name(), b'{"error":"your key sk-UPSTREAM"}', status=status, headers=(("Location", "http://evil/"),)
    )
    answer = business.node.chat(key, do)
    told(answer, 502, "upstream_error", "upstream_error")
    assert b"UPSTREAM" not in answer.body and answer.header("location") is None
    assert business.node.settled(key)["balance"] == 50_000


@pytest.mark.parametrize("pieces", [("cut-head",), (whole()[:50], "cut")])
def test_an_upstream_that_breaks_before_its_answer_is_whole(business: Business, pieces: Sequence[Any]) -> None:
    key = business.account(50)
    do = business.upstream.on(business.name(), *pieces, chunked=True)
    told(business.node.chat(key, do), 502, "upstream_error", "upstream_error")
    assert business.node.settled(key)["balance"] == 50_000


def test_an_upstream_that_refuses_connections_takes_no_token(own: Callable[..., Node], business: Business) -> None:
    node = own(upstream=f"http://127.0.0.1:{realparts.free_port()}").start()
    key = business.account(50, node)
    told(node.chat(key), 502, "upstream_error", "upstream_error")
    token = business.buyer.token(50)
    told(node.chat(token), 502, "upstream_error", "upstream_error")
    assert business.buyer.states(token) == {"UNSPENT"}
    assert node.settled(key)["balance"] == 50_000


def test_an_upstream_that_never_answers_is_given_up(own: Callable[..., Node], business: Business) -> None:
    node = own(UPSTREAM_TIMEOUT="1").start()
    key = business.account(50, node)
    do = business.upstream.on(business.name(), "hang-head")
    told(node.chat(key, do), 504, "upstream_error", "upstream_error")
    assert node.settled(key)["balance"] == 50_000


def test_an_upstream_that_says_nothing_to_tls_is_given_up_each_time(
    own: Callable[..., Node], business: Business
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = own(upstream=f"https://127.0.0.1:{silent.getsockname()[1]}", UPSTREAM_TIMEOUT="1").start()
        key = business.account(50, node)
        for _ in range(2):
            told(node.chat(key), 504, "upstream_error", "upstream_error")
        assert node.settled(key)["balance"] == 50_000


def _present(business: Business, token: str, where: str) -> Answer:
    if where == "create":
        return business.node.create(token)
    if where == "bearer":
        return business.node.chat(token)
    return business.node.call("POST", "/v1/wallet/topup", {"cashu_token": token}, key=business.account(5))


@pytest.mark.parametrize("path", ["/", "/v1/info", "/v1/models", "/models", "/health", "/ready"])
@pytest.mark.parametrize("secret", ["Bearer dummy", "Basic dXNlcjpwYXNz", "Bearer cashuBnonsense"])
def test_a_public_page_asks_for_no_credential_and_minds_none(business: Business, path: str, secret: str) -> None:
    assert business.node.call("GET", path, headers=[("Authorization", secret)]).status == 200


@pytest.mark.parametrize("name", ["Refund-LNURL", "Key-Expiry-Time"])
def test_terms_that_contradict_each_other_take_no_token(business: Business, name: str) -> None:
    token = business.buyer.token(3)
    values = ("a@example.com", "b@example.com") if name == "Refund-LNURL" else ("4000000000", "4000000001")
    body = {"initial_balance_token": token}
    answer = business.node.call("POST", "/v1/wallet/create", body, headers=[(name, value) for value in values])
    told(answer, 400, REQUEST, "invalid_parameter")
    assert business.node.create(token).status == 200


def test_every_error_that_can_be_told_is_provoked_through_the_envelope() -> None:
    texts = [path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    provoked = {code for text in texts if "told(" in text for code in re.findall(r'"([a-z_]+)"', text)}
    assert {failure.code for failure in STATUSES} <= provoked


def raw(node: Node, data: bytes, limit_s: float = 5) -> bytes:
    """Bytes over a plain socket, and all that comes back."""
    out = b""
    with socket.create_connection(("127.0.0.1", node.port), timeout=limit_s) as connection:
        connection.sendall(data)
        try:
            while piece := connection.recv(65536):
                out += piece
        except OSError:
            pass
    return out
