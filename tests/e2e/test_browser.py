"""What a web page can do: a real Chromium, a page from another origin, its script paying and reading.

A browser sends its own preflights, hides every header that is not exposed to it, and hands over no answer at all
where one CORS header is missing: whatever the script reads here, any page can read.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.conftest import COST, Business, Node
from tests.parts.npm import NODE
from tests.parts.upstream import DONE, chunk, usage, whole

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
PAGE = """<!doctype html><meta charset="utf-8"><title>A shop's page</title><script>
async function ask(url, init) {
  try {
    const answer = await fetch(url, init);
    return {status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.json()};
  } catch (error) { return {failed: String(error)} }
}
let said = "";
async function stream(url, init) {
  const answer = await fetch(url, init);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return {status: answer.status, headers: Object.fromEntries(answer.headers), body: said};
    said += value;
  }
}
</script>"""
EXPOSED = {
    "x-cashu", "retry-after", "x-routstr-request-id", "x-routstr-cost-msats", "x-routstr-input-cost-msats",
    "x-routstr-output-cost-msats", "x-routstr-cost-usd", "x-routstr-balance-msats", "x-routstr-max-tokens",
    "x-routstr-dropped-params",
}  # fmt: skip
UPSTREAMS_OWN = (("Access-Control-Allow-Origin", "https://upstream.example"), ("Access-Control-Max-Age", "1"))
"""A browser refuses an answer that names two origins."""
SDK_HEADERS = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`")


class Site:
    """One origin that serves the page."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(PAGE.encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, driven by the environment's own node: playwright's needs a library that bare systems lack."""
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYWRIGHT_NODEJS_PATH", NODE)
        with sync_playwright() as playwright:
            started = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
            yield started
            started.close()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """The page, opened."""
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(site.origin)
    yield opened
    context.close()


def ask(page: Page, url: str, body: Any = None, **headers: str) -> dict[str, Any]:
    """What the page's script gets for one `fetch`."""
    told: dict[str, Any] = page.evaluate(
        "([url, init]) => ask(url, {...init, body: init.body && JSON.stringify(init.body)})",
        [url, {"method": "GET" if body is None else "POST", "headers": headers, "body": body}],
    )
    return told


def chat(do: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": do}], "max_tokens": 50} | more


JSON = {"Content-Type": "application/json"}


@needs_browser
def test_a_page_opens_an_account_by_token_pays_and_reads_every_figure(page: Page, business: Business) -> None:
    url = business.node.url
    token = business.buyer.token(100)
    opened = ask(page, f"{url}/v1/wallet/create", {"initial_balance_token": token}, **JSON)
    assert opened["status"] == 200 and opened["body"]["balance"] == 100_000
    paying = JSON | {"Authorization": f"Bearer {opened['body']['api_key']}"}
    do = business.upstream.on(business.name(), whole(), headers=UPSTREAMS_OWN)
    told = ask(page, f"{url}/v1/chat/completions", chat(do, mystery=1), **paying)
    assert told["status"] == 200 and told["body"]["choices"]
    shown = {name: value for name, value in told["headers"].items() if name.startswith("x-routstr-")}
    request_id = shown.pop("x-routstr-request-id")
    assert shown == {
        "x-routstr-cost-msats": str(COST), "x-routstr-input-cost-msats": str(11 + 21),
        "x-routstr-output-cost-msats": "21", "x-routstr-cost-usd": "0.000053",
        "x-routstr-balance-msats": str(100_000 - COST), "x-routstr-dropped-params": "mystery",
    }  # fmt: skip
    info = ask(page, f"{url}/v1/wallet/info", **paying)
    assert (info["body"]["balance"], info["body"]["total_spent"]) == (100_000 - COST, COST)
    receipt = ask(page, f"{url}/v1/receipts/{request_id}", **paying)
    assert receipt["body"]["total_msats"] == COST
    back = ask(page, f"{url}/v1/wallet/refund", {}, **paying)
    assert business.buyer.receive(back["body"]["token"]) == 99


@needs_browser
def test_a_page_reads_a_paid_stream_as_it_is_made(page: Page, business: Business) -> None:
    go_on = threading.Event()
    do = business.upstream.on(
        business.name(), chunk("first "), go_on, chunk("second "), chunk(None, "stop"),
        chunk(None, choices=[], usage=usage(7, 3)), DONE, kind="text/event-stream", chunked=True,
        headers=UPSTREAMS_OWN,
    )  # fmt: skip
    init = {"method": "POST", "body": chat(do, stream=True), "headers": JSON | {"x-api-key": business.account(50)}}
    page.evaluate(
        "([url, init]) => { window.ended = stream(url, {...init, body: JSON.stringify(init.body)}) }",
        [f"{business.node.url}/v1/chat/completions", init],
    )
    page.wait_for_function("said.includes('first ')")
    assert not page.evaluate("said.includes('second ')")
    go_on.set()
    told = page.evaluate("window.ended")
    assert told["status"] == 200 and told["headers"]["x-routstr-request-id"]
    last = told["body"].rstrip().rsplit("\n\n", 1)[-1]
    assert json.loads(last.removeprefix("data: "))["cost"]["total_msats"] == COST


@needs_browser
def test_a_page_reads_what_it_must_pay_and_every_refusal(page: Page, business: Business) -> None:
    url = business.node.url
    unpaid = ask(page, f"{url}/v1/chat/completions", chat(), **JSON)
    assert unpaid["status"] == 402 and unpaid["headers"]["x-cashu"].startswith("creqA")
    assert unpaid["body"]["error"]["code"] == "payment_required"
    for status, path, body, more in (
        (401, "/v1/wallet/info", None, {"Authorization": "Bearer sk-" + "0" * 64}),
        (404, "/v1/nothing", None, {}),
        (400, "/v1/chat/completions", chat(model="unheard-of"), {"Authorization": f"Bearer {business.account(5)}"}),
        (413, "/v1/wallet/create", {"initial_balance_token": "cashuB" + "A" * 300_000}, {}),
    ):
        told = ask(page, url + path, body, **(JSON | more))
        assert told.get("status") == status, told
        assert told["headers"]["x-routstr-request-id"] == told["body"]["request_id"]
    models = ask(page, f"{url}/v1/models")
    assert [model["id"] for model in models["body"]["data"]] == ["small", "vendor/Big"]


@needs_browser
def test_only_the_pages_that_the_operator_names_may_use_the_node(
    browser: Browser, page: Page, site: Site, own: Callable[..., Node]
) -> None:
    node = own(CORS_ORIGINS=f"https://shop.example,{site.origin}").start()
    stranger = Site()
    try:
        other = browser.new_page()
        other.goto(stranger.origin)
        for path, headers in (("/v1/info", {}), ("/v1/wallet/info", {"Authorization": "Bearer sk-1"})):
            assert ask(page, node.url + path, **headers)["status"] in (200, 401)
            assert ask(other, node.url + path, **headers) == {"failed": "TypeError: Failed to fetch"}
        other.close()
    finally:
        stranger.close()


# --- without a browser ------------------------------------------------------------------------------


def cors_of(node: Node, method: str, path: str, origin: str, **more: str) -> dict[str, str]:
    """The CORS headers of an answer, and Vary."""
    asked = [("Origin", origin), *((name.replace("_", "-"), value) for name, value in more.items())]
    answer = node.call(method, path, headers=asked)
    assert answer.status in (200, 204, 402, 404)
    return {k.lower(): v for k, v in answer.headers if k.lower().startswith("access-control-") or k.lower() == "vary"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/wallet/info", "/v1/models?limit=1", "/"])
def test_a_preflight_names_the_very_headers_that_were_asked_for(business: Business, path: str) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": SDK_HEADERS}
    told = cors_of(business.node, "OPTIONS", path, "https://page.example", **asked)
    assert told["access-control-allow-origin"] == "*"
    assert told["access-control-allow-headers"] == SDK_HEADERS, "`*` would leave out Authorization"
    assert {"GET", "HEAD", "POST"} <= set(told["access-control-allow-methods"].split(", "))
    assert told["access-control-max-age"] == "86400"


def test_no_page_is_told_that_it_may_ask_the_admins_pages(business: Business) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
    assert cors_of(business.node, "OPTIONS", "/admin/login", "https://page.example", **asked) == {}


@pytest.mark.parametrize("path", ["/v1/info", "/v1/nothing", "/v1/wallet/info"])
def test_every_answer_exposes_the_headers_that_pages_need(business: Business, path: str) -> None:
    told = cors_of(business.node, "GET", path, "https://page.example")
    assert told["access-control-allow-origin"] == "*"
    assert set(told["access-control-expose-headers"].split(", ")) == EXPOSED


def test_a_foreign_page_gets_no_cors_header_at_all(own: Callable[..., Node]) -> None:
    node = own(CORS_ORIGINS="https://shop.example").start()
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": SDK_HEADERS}
    for foreign in ("https://page.example", "https://shop.example.evil.example", "null", "*"):
        assert cors_of(node, "OPTIONS", "/v1/chat/completions", foreign, **asked) == {"vary": "Origin"}
        assert cors_of(node, "GET", "/v1/info", foreign) == {"vary": "Origin"}
    told = cors_of(node, "OPTIONS", "/v1/chat/completions", "https://shop.example", **asked)
    assert told["access-control-allow-origin"] == "https://shop.example" and told["vary"] == "Origin"
    assert told["access-control-allow-headers"] == SDK_HEADERS
