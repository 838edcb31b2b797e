"""Every setting: its name, its kind, its bounds, its default, and what it means to who sets it.

The words below a field are the ones that `routstr.toml` and `docs/settings.md` show
(`scripts/settings_docs.py --write`).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from addon import lnurl
from addon.settings.files import EnvFile, TomlFile


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Count = Annotated[int, BeforeValidator(_no_bool)]
Bytes = Annotated[Count, Field(ge=1024)]
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=86_400, allow_inf_nan=False)]
Interval = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=31_536_000, allow_inf_nan=False)]
Price = Annotated[Decimal, BeforeValidator(_no_bool), Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Fee = Annotated[Decimal, BeforeValidator(_no_bool), Field(ge=1, le=10, allow_inf_nan=False)]
Dialect = Literal[
    "auto", "openai", "vllm", "sglang", "llamacpp", "llama-cpp-python", "ollama", "transformers", "mistral"
]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]


class Settings(BaseSettings):
    """Every setting, by its classic name in lower case."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    upstream_base_url: str = ""
    """The API that is sold, where `--mode reverse:…` does not name it. A path (…/api/v1) is honoured."""
    upstream_api_key: SecretStr = SecretStr("")
    """The credential that is swapped in for the client's; empty for a local server that asks for none."""
    upstream_dialect: Dialect = "auto"
    """What kind of server it is, where that must be told: one that refuses to be asked for its figures (mistral,
    transformers, llama-cpp-python), or whose own list of models does not say whether it ends an answer at the
    context by itself (openai, vllm, sglang do; llamacpp, ollama do not)."""
    upstream_goes_on: bool = False
    """true: the upstream makes and bills the whole answer though nobody waits for it any more (Bedrock, Google, Groq,
    Mistral, Perplexity). What a client leaves behind is then read on to its figures, for UPSTREAM_TIMEOUT and
    MAX_BUFFER_BYTES at most, and charged whole. false: the upstream is left at once, and what came is charged."""
    upstream_timeout: Seconds = 600
    """Seconds until an answer's first byte."""
    upstream_idle_timeout: Seconds = 300
    """Seconds between two bytes of an answer."""

    cost_per_request: Price = Decimal(1)
    """Sats for each request, decimals allowed."""
    cost_per_1k_input_tokens: Price = Decimal(0)
    """Sats for 1,000 tokens of a request, decimals allowed."""
    cost_per_1k_output_tokens: Price = Decimal(0)
    """Sats for 1,000 tokens of an answer, decimals allowed."""
    min_request_msat: Annotated[Count, Field(ge=1, le=1_000_000_000)] = 1
    """The least that a request costs, in msat (1 sat = 1000 msat)."""
    model_based_pricing: bool = False
    """true: each model at its own price in USD, from the models file, instead of the three prices above."""
    models_path: Path | None = None
    """The models file, in the shape of OpenRouter's list. Empty: models.json if it is there; else, with
    MODEL_BASED_PRICING, the bundled models.example.json, and without it the upstream's own list."""
    exchange_fee: Fee = Decimal("1.005")
    """A multiplier on USD prices: what changing bitcoin costs you."""
    upstream_provider_fee: Fee = Decimal("1.05")
    """A multiplier on USD prices: your own margin."""
    btc_usd: Annotated[Decimal, Field(gt=0, le=1_000_000_000, allow_inf_nan=False)] | None = None
    """A fixed price of bitcoin in USD. Empty: Kraken, Coinbase and Binance are asked, for USD prices and for the USD
    on receipts; through HTTPS_PROXY, and trusting SSL_CERT_FILE, where the environment names these."""
    price_max_age: Annotated[Seconds, Field(ge=1)] = 900
    """Seconds that a price of bitcoin holds; when no newer one can be had, nothing is sold at USD prices."""

    cashu_mints: Annotated[Names, Field(validation_alias=AliasChoices("cashu_mints", "mint"))] = ()
    """The mints whose ecash is accepted, exactly as written here; at least one. Also called MINT."""
    nsec: SecretStr = SecretStr("")
    """The node's identity and the seed of its coins: an nsec1… key. Without it one is made, kept in STATE_DIR."""
    npub: str = ""
    """The public half of NSEC. Not needed; where it is set it must belong to NSEC, which guards against a mix-up."""
    receive_ln_address: str = ""
    """The Lightning address (name@host, or an LNURL) that your profit is paid to, mint by mint. Empty: it stays."""
    minimum_payout: Annotated[Count, Field(ge=1, le=21_000_000 * 10**8)] = 1000
    """The least profit that is paid out at once, in sats. Less than 10 is never sent."""
    payout_interval: Interval = 900
    """Seconds between two looks for profit to pay out; 0: never."""
    refund_processing_interval: Interval = 3600
    """Seconds between two looks for expired keys, whose balance goes to their refund address; 0: never."""
    lnurl_allow_private: bool = False
    """true: clients may name refund addresses on hosts that are not public. For tests."""

    name: str = "Routstr node"
    """What the node is called."""
    description: str = "Pay per request for language models, with Cashu ecash."
    """A sentence about it."""
    http_url: str = ""
    """Its public address."""
    onion_url: str = ""
    """Its address inside Tor."""
    cors_origins: Names = ("*",)
    """Web pages that may use the node from a browser, separated by commas; * for all."""
    relays: Names = ("wss://relay.damus.io", "wss://nos.lol", "wss://relay.routstr.com")
    """Nostr relays, separated by commas: where other nodes are looked for, and this one is announced."""
    announce: bool = False
    """true: the node is announced on RELAYS, with HTTP_URL and ONION_URL."""
    tor_proxy_url: str = ""
    """A SOCKS proxy for onion addresses: socks5://127.0.0.1:9050."""
    sidecar_url: str = ""
    """Where the sidecar answers. Empty: its socket in STATE_DIR; an http address; or off."""
    admin_password: SecretStr = SecretStr("")
    """The password of the admin pages; empty: there are none."""

    max_body_bytes: Bytes = 32 << 20
    """Bytes of a request's body, unfolded."""
    max_buffer_bytes: Bytes = 32 << 20
    """Bytes of an answer that is held until it is complete; a larger one goes on as it comes."""
    min_output_tokens: Annotated[Count, Field(ge=1)] = 256
    """The fewest output tokens that a balance must afford for a request to be served."""
    default_context_length: Annotated[Count, Field(ge=256)] = 8192
    """Tokens: the context of a model that does not tell its own."""
    unknown_fields: Literal["drop", "refuse", "pass"] = "drop"
    """What happens to fields of a request that are not known: drop, refuse, or pass."""
    drain_timeout: Seconds = 60
    """Seconds that running answers have to end when the node is stopped."""
    workers: Annotated[Count, Field(ge=1, le=64)] = 1
    """Processes that serve one port."""

    state_dir: Path = Path("state")
    """Everything the node keeps: the ledger, the wallet, its secret. Back it up."""
    keep_days: Annotated[Count, Field(ge=1, le=36_500)] = 400
    """Days that each request's row is kept; older ones are folded into a sum."""

    @field_validator("btc_usd", "models_path", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("upstream_base_url", "http_url", "onion_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if value and not _is_address(value, ("http", "https")):
            raise ValueError("must begin with http:// or https:// and name a host")
        return value.rstrip("/")

    @field_validator("receive_ln_address")
    @classmethod
    def _lightning_address(cls, value: str) -> str:
        try:
            if value:
                lnurl.pay_url(value, allow_private=True)
        except ValueError as reason:
            raise ValueError(f"must be a Lightning address (name@host) or an LNURL: {reason}") from None
        return value

    @field_validator("cashu_mints", "relays")
    @classmethod
    def _addresses(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        mints = info.field_name == "cashu_mints"
        schemes = ("http", "https") if mints else ("ws", "wss")
        if not all(_is_address(url, schemes) for url in value):
            raise ValueError(f"each must be an address like {'https://mint' if mints else 'wss://relay'}.example")
        return tuple(dict.fromkeys(url.rstrip("/") for url in value))

    @field_validator("sidecar_url", "tor_proxy_url")
    @classmethod
    def _local_address(cls, value: str, info: ValidationInfo) -> str:
        tor = info.field_name == "tor_proxy_url"
        scheme, example = ("socks5", "socks5://127.0.0.1:9050") if tor else ("http", "http://127.0.0.1:8090, or off")
        if value and (tor or value != "off") and not _is_address(value, (scheme,)):
            raise ValueError(f"must be an address like {example}")
        return value.rstrip("/")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, EnvFile(settings_cls), TomlFile(settings_cls)


SECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "upstream": ("upstream_base_url", "upstream_idle_timeout"),
    "prices": ("cost_per_request", "price_max_age"),
    "money": ("cashu_mints", "lnurl_allow_private"),
    "node": ("name", "admin_password"),
    "limits": ("max_body_bytes", "workers"),
    "state": ("state_dir", "keep_days"),
}
"""How the file and the documents group them: each section's first and last setting."""

AWAITED: Final[Mapping[str, str]] = {
    "relays": "discovery",
    "announce": "discovery",
    "workers": "several processes",
}
"""Accepted and checked, so that one file serves every node of this kind, but without effect here yet: what
each waits for. Who sets one is told so at start."""


def wallet_environment(settings: Settings) -> dict[str, str]:
    """What the wallet process must know, as the environment that it reads its own `Settings` from."""
    return {
        "NSEC": settings.nsec.get_secret_value(),
        "CASHU_MINTS": ",".join(settings.cashu_mints),
        "STATE_DIR": str(settings.state_dir.resolve()),
        "RECEIVE_LN_ADDRESS": settings.receive_ln_address,
        "MINIMUM_PAYOUT": str(settings.minimum_payout),
        "PAYOUT_INTERVAL": str(settings.payout_interval),
        "REFUND_PROCESSING_INTERVAL": str(settings.refund_processing_interval),
        "LNURL_ALLOW_PRIVATE": str(settings.lnurl_allow_private).lower(),
        "TOR_PROXY_URL": settings.tor_proxy_url,
    }


def _is_address(value: Any, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
