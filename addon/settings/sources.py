"""Reading the settings, and saying what is wrong with them: name, place, remedy."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from decimal import Decimal

from pydantic import ValidationError

from addon.errors import SettingsError
from addon.settings.files import ENV_FILE, TOML_FILE, env_values
from addon.settings.model import Settings


def load() -> Settings:
    """The settings of this process, from where it was started. Raises SettingsError, naming each mistake."""
    try:
        return Settings()
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        lines = [_explain([str(part) for part in problem["loc"]], problem["msg"]) for problem in problems]
        raise SettingsError("; ".join(dict.fromkeys(lines))) from None


def near_misses(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Environment variables that are nearly one of ours: (as written, as probably meant)."""
    names = _names()
    strange = [name for name in environment if name.lower() not in names and len(name) > 4]
    close = [(name, difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.9)) for name in strange]
    return [(name, match[0].upper()) for name, match in close if match]


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
    else:
        default = Settings.model_fields[shown].default
        what += f" (default: {default})" if isinstance(default, int | float | Decimal) else ""
    return f"{shown.upper()} ({_place(name)}): {what}"


def _place(name: str) -> str:
    aliases = {"cashu_mints", "mint"} if name in ("cashu_mints", "mint") else {name}
    if any(key.lower() in aliases for key in os.environ):
        return "read from the environment"
    if aliases & env_values().keys():
        return f"read from {ENV_FILE.resolve()}"
    return f"read from {TOML_FILE.resolve()}"
