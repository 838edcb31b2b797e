"""The two files that settings can stand in, read strictly: a line that is not understood is no comment.

Both are looked for where the node is started.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dotenv.parser import parse_stream
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from addon.errors import SettingsError

TOML_FILE: Final = Path("routstr.toml")
ENV_FILE: Final = Path(".env")


class _File(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False


class TomlFile(_File):
    """`routstr.toml`: sections are for people; their keys are the settings."""

    def __call__(self) -> dict[str, Any]:
        return toml_values()


class EnvFile(_File):
    """`.env`: NAME=value lines."""

    def __call__(self) -> dict[str, Any]:
        return dict(env_values())


def toml_values() -> dict[str, Any]:
    """By lower-case name. Raises SettingsError where the file is none, or names a setting twice."""
    if not TOML_FILE.is_file():
        return {}
    try:
        parsed = tomllib.loads(TOML_FILE.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{TOML_FILE.resolve()} is not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"{TOML_FILE.resolve()} cannot be read ({error.strerror})") from None
    return _once(_flat(parsed), TOML_FILE)


def env_values() -> dict[str, str]:
    """By lower-case name. Raises SettingsError at a line that is no NAME=value."""
    if not ENV_FILE.is_file():
        return {}
    try:
        with ENV_FILE.open(encoding="utf-8") as lines:
            bindings = list(parse_stream(lines))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{ENV_FILE.resolve()} cannot be read ({type(error).__name__})") from None
    for binding in bindings:
        if binding.error or (binding.key is not None and binding.value is None):
            raise SettingsError(f"{ENV_FILE.resolve()}, line {binding.original.line}: must be NAME=value")
    return _once(((b.key, b.value or "") for b in bindings if b.key is not None), ENV_FILE)


def _flat(parsed: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in parsed.items():
        yield from value.items() if isinstance(value, dict) else [(key, value)]


def _once(pairs: Any, file: Path) -> dict[str, Any]:
    """Each setting, once. `mint` is another name of `cashu_mints`."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = "cashu_mints" if key.lower() == "mint" else key.lower()
        if name in found:
            raise SettingsError(f"{name.upper()} (read from {file.resolve()}): stands there twice")
        found[name] = value
    return found
