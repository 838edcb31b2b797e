"""What an operator sets: one frozen model, read once at start.

The environment wins over `.env`, which wins over `routstr.toml`. A value that is wrong is refused at start,
by name, with the place where it was read and what would be right; a value is never shown, it may be secret.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from addon.errors import SettingsError

TOML_FILE: Final = Path("routstr.toml")
ENV_FILE: Final = Path(".env")


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Count = Annotated[int, BeforeValidator(_no_bool)]
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=86_400, allow_inf_nan=False)]
Price = Annotated[Decimal, BeforeValidator(_no_bool), Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Fee = Annotated[Decimal, BeforeValidator(_no_bool), Field(ge=1, le=10, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]


class Settings(BaseSettings):
    """Every setting, by its classic name in lower case. See `routstr.toml` for what each one means."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, env_file=ENV_FILE, env_file_encoding="utf-8"
    )

    # the upstream
    upstream_base_url: str = ""
    upstream_api_key: SecretStr = SecretStr("")
    upstream_timeout: Seconds = 600
    upstream_idle_timeout: Seconds = 300
    # prices
    model_based_pricing: bool = False
    models_path: Path | None = None
    cost_per_request: Price = Decimal(1)
    cost_per_1k_input_tokens: Price = Decimal(0)
    cost_per_1k_output_tokens: Price = Decimal(0)
    exchange_fee: Fee = Decimal("1.005")
    upstream_provider_fee: Fee = Decimal("1.05")
    btc_usd: Annotated[Decimal, Field(gt=0, le=1_000_000_000, allow_inf_nan=False)] | None = None
    price_max_age: Seconds = 900
    min_request_msat: Annotated[Count, Field(ge=1)] = 1
    # the money
    cashu_mints: Annotated[Names, Field(validation_alias=AliasChoices("cashu_mints", "mint"))] = ()
    nsec: SecretStr = SecretStr("")
    lnurl_allow_private: bool = False
    # the node, as others see it
    name: str = "Routstr node"
    description: str = "Pay per request for language models, with Cashu ecash."
    http_url: str = ""
    onion_url: str = ""
    cors_origins: Names = ("*",)
    # limits
    max_body_bytes: Annotated[Count, Field(ge=1024)] = 32 << 20
    max_buffer_bytes: Annotated[Count, Field(ge=1024)] = 32 << 20
    min_output_tokens: Annotated[Count, Field(ge=1)] = 256
    default_context_length: Annotated[Count, Field(ge=256)] = 8192
    unknown_fields: Literal["drop", "refuse", "pass"] = "drop"
    drain_timeout: Seconds = 60
    # where everything is kept
    state_dir: Path = Path("state")

    @field_validator("btc_usd", "models_path", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("upstream_base_url", "http_url", "onion_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("must begin with http:// or https:// and name a host")
        return value.rstrip("/")

    @field_validator("cashu_mints")
    @classmethod
    def _mint_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise ValueError("each mint must be a web address: https://mint.example")
        return tuple(dict.fromkeys(url.rstrip("/") for url in value))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, _TomlSections(settings_cls)


class _TomlSections(PydanticBaseSettingsSource):
    """`routstr.toml`: sections are for people; their keys are the settings."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return _toml_values()


def load() -> Settings:
    """The settings of this process, from where it was started. Raises SettingsError, naming each mistake."""
    try:
        return Settings()
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        lines = [_explain([str(part) for part in problem["loc"]], problem["msg"]) for problem in problems]
        raise SettingsError("; ".join(lines)) from None


def near_misses(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Environment variables that are nearly one of ours: (as written, as probably meant)."""
    names = _names()
    strange = [name for name in environment if name.lower() not in names and len(name) > 4]
    close = [(name, difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.9)) for name in strange]
    return [(name, match[0].upper()) for name, match in close if match]


def wallet_environment(settings: Settings) -> dict[str, str]:
    """What the wallet process must know, as the environment that it reads its own `Settings` from."""
    return {
        "NSEC": settings.nsec.get_secret_value(),
        "CASHU_MINTS": ",".join(settings.cashu_mints),
        "STATE_DIR": str(settings.state_dir.resolve()),
    }


def _toml_values() -> dict[str, Any]:
    if not TOML_FILE.is_file():
        return {}
    try:
        parsed = tomllib.loads(TOML_FILE.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{TOML_FILE.resolve()} is not valid TOML: {error}") from None
    flat: dict[str, Any] = {}
    for key, value in parsed.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return {("cashu_mints" if key.lower() == "mint" else key.lower()): value for key, value in flat.items()}


def _names() -> Sequence[str]:
    return [*Settings.model_fields, "mint"]


def _explain(location: Sequence[str], message: str) -> str:
    """One mistake, in words: setting, place, what is wrong."""
    name = location[0].lower() if location else "?"
    shown = "cashu_mints" if name == "mint" else name
    what = message.removeprefix("Value error, ")
    if shown not in Settings.model_fields:
        meant = difflib.get_close_matches(shown, _names(), n=1)
        what = "no such setting" + (f" (did you mean {meant[0].upper()}?)" if meant else "")
    return f"{shown.upper()} ({_place(name)}): {what}"


def _place(name: str) -> str:
    aliases = {"cashu_mints", "mint"} if name in ("cashu_mints", "mint") else {name}
    if any(key.lower() in aliases for key in os.environ):
        return "read from the environment"
    if ENV_FILE.is_file() and any(key.lower() in aliases for key in dotenv_values(ENV_FILE)):
        return f"read from {ENV_FILE.resolve()}"
    return f"read from {TOML_FILE.resolve()}"
