"""Where the models come from: the operator's file, the example that comes with the program, the upstream's list."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from addon.catalog import CatalogError, Model, entries, load, parse, read
from addon.errors import SettingsError
from addon.settings import Settings

OWN_MODELS: Final = Path("models.json")
BUNDLED_MODELS: Final = Path(__file__).resolve().parents[2] / "models.example.json"
LIST_LIMIT_BYTES: Final = 32 << 20
LIST_TIMEOUT_S: Final = 10.0
_SELF_BOUNDED: Final = frozenset(("vllm", "sglang"))
_UNBOUNDED: Final = frozenset(("llamacpp", "library", "ollama", "llama-cpp-python", "transformers"))
"""`owned_by`, or the dialect, of servers that go on without end when no cap is named."""


@dataclass(frozen=True, slots=True)
class UpstreamList:
    """What the upstream itself lists, and what kind of server it says it is."""

    models: Sequence[Model]
    owners: Mapping[str, str]

    def self_bounded(self, upstream_id: str, *, context_known: bool, dialect: str) -> bool:
        """Unknown servers are trusted to stop at a context only where the operator told it."""
        if dialect != "auto":
            return dialect not in _UNBOUNDED
        owner = self.owners.get(upstream_id, next(iter(self.owners.values()), ""))
        return owner in _SELF_BOUNDED or (context_known and owner not in _UNBOUNDED)


NOTHING_LISTED: Final = UpstreamList((), {})


def read_models_file(settings: Settings) -> tuple[list[Model], Path] | None:
    """The operator's models file, or the bundled example where prices come from models; None: no file.

    Raises SettingsError for a file that was named and cannot be used.
    """
    path = settings.models_path or (OWN_MODELS if OWN_MODELS.is_file() else None)
    if path is None and settings.model_based_pricing:
        path = BUNDLED_MODELS
    if path is None:
        return None
    try:
        return read(path.read_bytes()), path
    except OSError as error:
        raise SettingsError(f"MODELS_PATH: {path} cannot be read ({error.strerror})") from None
    except CatalogError as error:
        raise SettingsError(f"MODELS_PATH: {path} cannot be used: {error}") from None


def check_prices(settings: Settings) -> None:
    """Raises SettingsError where everything would be free."""
    costs = (settings.cost_per_request, settings.cost_per_1k_input_tokens, settings.cost_per_1k_output_tokens)
    if not settings.model_based_pricing and not any(costs):
        raise SettingsError(
            "COST_PER_REQUEST, COST_PER_1K_INPUT_TOKENS and COST_PER_1K_OUTPUT_TOKENS are all zero: "
            "every request would be free. Set at least one, or MODEL_BASED_PRICING=true."
        )


async def ask_upstream(url: str, api_key: str) -> UpstreamList | None:
    """The upstream's own GET /models, once; None when it does not answer with a list."""
    try:
        document = load(await fetch(f"{url}/models", api_key))
        return UpstreamList(parse(document), _owners(entries(document)))
    except CatalogError:
        return None


async def fetch(url: str, api_key: str = "", *, trust_env: bool = False) -> bytes:
    """The body of a list of models, bounded in size and time. Raises CatalogError.

    `trust_env`: through the proxy that the environment names.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with (
            asyncio.timeout(LIST_TIMEOUT_S),
            httpx.AsyncClient(trust_env=trust_env, headers=headers) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != 200:
                raise CatalogError(f"{url} answered {response.status_code}")
            return await _body(response)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise CatalogError(f"{url} cannot be read ({type(error).__name__})") from None


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LIST_LIMIT_BYTES:
            raise CatalogError("the list of models is too large")
    return bytes(body)


def _owners(listed: Sequence[Any]) -> dict[str, str]:
    named = [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return {entry["id"]: str(entry.get("owned_by", "")).lower() for entry in named}
