"""Writes `routstr.toml` and `docs/settings.md` from the settings themselves.

python scripts/settings_docs.py            says which of the two is out of date; exit 1 then
python scripts/settings_docs.py --write    writes them
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from addon.settings import AWAITED, SECTIONS, Settings

TOML_HEAD = """\
# Settings of the node. Each line shows a default; take the # away to change it. The environment and a file
# named .env win over this one, under the same names in capitals. Secrets (UPSTREAM_API_KEY, NSEC,
# ADMIN_PASSWORD) belong there, not here. A mistake is refused at start, by name.
"""
PAGE_HEAD = """\
# Settings

Each can stand in three places: the environment wins over a file `.env`, which wins over `routstr.toml` (there
in lower case, in any section). All are read once, at start, from where the node is started. What is unknown or
wrong ends the start with the setting's name, the place where it was read, and what would be right. A variable
that is set to nothing counts as set: `RELAYS=` means none. `--mode reverse:UPSTREAM` on the command line wins
over `UPSTREAM_BASE_URL`.
"""
EXAMPLES = {"cashu_mints": ("https://mint.example",)}
"""What is shown for settings that have no default and must be set."""


def documents() -> dict[Path, str]:
    """Each file's path and what belongs into it."""
    return {ROOT / "routstr.toml": _toml(), ROOT / "docs" / "settings.md": _page()}


def sections() -> Iterator[tuple[str, list[str]]]:
    """Each section's name, and its settings in order."""
    names = list(Settings.model_fields)
    for section, (first, last) in SECTIONS.items():
        yield section, names[names.index(first) : names.index(last) + 1]


def default_of(field: FieldInfo) -> object:
    """A default as plain data; None: there is none."""
    value = field.default
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def shown(value: object) -> str:
    """A value as a person would write it into the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return "" if value is None else str(value)


def _toml() -> str:
    told = [TOML_HEAD]
    for section, names in sections():
        told.append(f"[{section}]")
        for name in names:
            field = Settings.model_fields[name]
            told += textwrap.wrap(_words(name, field), 105, initial_indent="# ", subsequent_indent="# ")
            told.append(f"# {name} = {_toml_value(EXAMPLES.get(name, default_of(field)))}")
        told.append("")
    return "\n".join(told)


def _toml_value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{part}"' for part in value) + "]"
    if isinstance(value, bool | int | float) or (value is not None and type(value).__name__ == "Decimal"):
        return shown(value)
    return f'"{shown(value)}"'


def _page() -> str:
    told = [PAGE_HEAD]
    for section, names in sections():
        told += [f"## {section.capitalize()}", "", "| setting | default | meaning |", "|---|---|---|"]
        for name in names:
            field = Settings.model_fields[name]
            default = shown(default_of(field))
            cell = f"`{default}`" if default else ""
            told.append(f"| `{name.upper()}` | {cell} | {_words(name, field)} |")
        told.append("")
    return "\n".join(told)


def _words(name: str, field: FieldInfo) -> str:
    words = " ".join((field.description or "").split())
    return f"{words} (Without effect yet: waits for {AWAITED[name]}.)" if name in AWAITED else words


def main() -> int:
    parser = argparse.ArgumentParser(description="Write routstr.toml and docs/settings.md from the settings.")
    parser.add_argument("--write", action="store_true", help="write what is out of date")
    write = parser.parse_args().write
    stale = [path for path, text in documents().items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'written' if write else 'is out of date'}")
        if write:
            path.write_text(documents()[path], "utf-8")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    sys.exit(main())
