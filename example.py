"""Pay for a language model with a Cashu token, through the official OpenAI client and nothing else.

    pip install openai
    CASHU_TOKEN=cashuB… python example.py [QUESTION]

ROUTSTR_API_URL is the node's address with /v1, by default that of a node on this machine; MODEL is one of its
models, by default the first of its list. On a terminal the conversation goes on until an empty line.
"""

from __future__ import annotations

import os
import sys
from typing import Any

try:
    import openai
except ImportError:
    sys.exit("The OpenAI client is missing: pip install openai")

URL = os.environ.get("ROUTSTR_API_URL", "http://127.0.0.1:8000/v1").rstrip("/")
TOKEN = os.environ.get("CASHU_TOKEN", "").strip()
QUESTION = "In one sentence: what is money for?"
Json = dict[str, Any]


def main(arguments: list[str]) -> None:
    if not TOKEN:
        sys.exit("CASHU_TOKEN is empty. Make a token in any Cashu wallet: CASHU_TOKEN=cashuB… python example.py")
    client = openai.OpenAI(base_url=URL, api_key=TOKEN)
    model = os.environ.get("MODEL") or first_model(client)
    said: list[Json] = []
    question = " ".join(arguments) or QUESTION
    while question:
        said.append({"role": "user", "content": question})
        print(f"\n{model}, paid with ecash: {question}\n")
        said.append({"role": "assistant", "content": ask(client, model, said)})
        question = input("\nYou (an empty line ends): ").strip() if sys.stdin.isatty() else ""
    told = account(client)
    print(f"Left on the account that the token opened: {sats(told['balance'])}, {sats(told['total_spent'])} spent.")
    print("\nThe same token goes on paying. Whoever made it knows it; the account's own key is safer, and from")
    print(f"its first use the token stops being one:\n  {told['api_key']}")
    print(f'The rest, as a new token:\n  curl -X POST {URL}/wallet/refund -H "Authorization: Bearer $CASHU_TOKEN"')


def first_model(client: Any) -> str:
    """The first model on sale."""
    for model in client.models.list():
        return str(model.id)
    sys.exit(f"The node at {URL} sells no model now.")


def ask(client: Any, model: str, messages: list[Json]) -> str:
    """One question, its answer printed word by word as it comes, then what it cost. The whole answer."""
    raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, stream=True, max_tokens=300)
    answer = ""
    for chunk in raw.parse():
        for choice in chunk.choices:
            answer += choice.delta.content or ""
            print(choice.delta.content or "", end="", flush=True)
    print("\n\n" + cost(client, raw.headers["x-routstr-request-id"]))
    return answer


def cost(client: Any, request_id: str) -> str:
    """What a request cost. The stream tells it too, but behind the end where this client stops to read."""
    told: Json = client.get(f"/receipts/{request_id}", cast_to=object)
    usd = f" ({told['total_usd']:.6f} USD)" if "total_usd" in told else ""
    tokens = f"{told['input_tokens']} tokens in, {told['output_tokens']} out"
    return f"Cost: {sats(told['total_msats'])}{usd}, {tokens}."


def account(client: Any) -> Json:
    """What the node knows of the account: `balance` and `total_spent` in msat, its `api_key`."""
    told: Json = client.get("/wallet/info", cast_to=object)
    return told


def sats(msat: int) -> str:
    return f"{msat / 1000:,.3f}".rstrip("0").rstrip(".") + " sat"


def words(error: Any) -> str:
    """What the node says is wrong. Its answers are written for people."""
    told = error.body if isinstance(error.body, dict) else {}
    return str(told.get("message") or f"{URL} answered {error.status_code}; is it a node's address, with /v1?")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except openai.APIConnectionError:
        sys.exit(f"No node answers at {URL}. Set ROUTSTR_API_URL to its address, with /v1.")
    except openai.APIStatusError as error:
        sys.exit(words(error))
    except (KeyboardInterrupt, EOFError):
        sys.exit(130)
