"""Drafts a models file from a list of models, and brings one up to date without losing what was set by hand.

    python scripts/models_meta.py openrouter --only 'meta-llama/*'
    python scripts/models_meta.py upstream
    python scripts/models_meta.py https://llm.example/v1/models --write

The list is OpenRouter's, the own upstream's (as UPSTREAM_BASE_URL and UPSTREAM_API_KEY name it), any address, a
file, or - for standard input. The file is only written with --write; what would change is shown either way.

What was drafted is remembered beside the file. A value that is still as it was drafted follows the list; one
that differs was set by hand, and stays; so does an entry or a price that was removed by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from addon import settings
from addon.catalog import CatalogError, Model, entries, load, parse, tellable
from addon.errors import SettingsError
from addon.offers import OWN_MODELS, fetch
from addon.upstream import upstream_of

OPENROUTER: Final = "https://openrouter.ai/api/v1/models"
KEPT: Final = (
    "canonical_slug", "name", "created", "description", "context_length", "architecture", "pricing", "top_provider",
    "per_request_limits", "supported_parameters",
)  # fmt: skip
"""What a draft takes over of an entry: what clients are told, and what prices need."""
_LOCAL: Final = ("127.0.0.1", "::1", "localhost")
_GONE: Final = object()

Entries = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Draft:
    """What became of a list: the entries by id, and what the operator must know."""

    entries: Entries
    notes: Sequence[str]


def main(arguments: Sequence[str]) -> int:
    """0: shown, and written where that was asked. 1: something cannot be used, and why."""
    chosen = _arguments(arguments)
    try:
        listed = draft(parse(load(read_source(chosen.source))), chosen.only)
        document, own = read_file(chosen.file)
        drafted = read_file(remembered(chosen.file))[1] if own else {}
    except (CatalogError, SettingsError) as error:
        print(f"models_meta: {error}", file=sys.stderr)
        return 1
    merged = merge(drafted, own, listed.entries)
    before, after = _text(document) if own else "", _text(_with(document, merged))
    print("\n".join(_diff(before, after, chosen.file)) or f"{chosen.file} is up to date.")
    removed = [f"removed by hand, stays out: {name}" for name in listed.entries if name not in merged]
    for note in (*listed.notes, *removed, *check(merged)):
        print(note, file=sys.stderr)
    if not chosen.write:
        print("Nothing was written; --write does it.", file=sys.stderr)
        return 0
    try:
        write(chosen.file, after)
        write(remembered(chosen.file), _text({"data": list((drafted | listed.entries).values())}))
    except OSError as error:
        print(f"models_meta: {chosen.file} cannot be written ({error.strerror})", file=sys.stderr)
        return 1
    return 0


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    title, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="models_meta.py", description=title, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="openrouter, upstream, an address, a file, or - for standard input")
    parser.add_argument("--file", type=Path, default=OWN_MODELS, help="the models file (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="only these ids; * matches anything")
    parser.add_argument("--write", action="store_true", help="write the file")
    return parser.parse_args(arguments)


# --- reading ----------------------------------------------------------------------------------------


def read_source(source: str) -> bytes:
    """The text of a list. Raises CatalogError, or SettingsError where the node's own settings are wrong."""
    if source == "-":
        return sys.stdin.buffer.read()
    if source == "upstream":
        return asyncio.run(fetch(*_upstream()))
    url = OPENROUTER if source == "openrouter" else source
    if not url.startswith(("http://", "https://")):
        return _bytes(Path(source))
    return asyncio.run(fetch(url, trust_env=urlsplit(url).hostname not in _LOCAL))


def _upstream() -> tuple[str, str]:
    """The address of the upstream's list, and its key, as the node itself would ask."""
    chosen = settings.load()
    base = urlsplit(chosen.upstream_base_url)
    if base.hostname is None:
        raise SettingsError("UPSTREAM_BASE_URL is not set: there is no upstream to ask")
    port = base.port or (443 if base.scheme == "https" else 80)
    key = chosen.upstream_api_key.get_secret_value()
    target = upstream_of(base.scheme, base.hostname, port, base_url=chosen.upstream_base_url, api_key=key)
    return f"{target.url}/models", key


def read_file(path: Path) -> tuple[Any, Entries]:
    """A models file as it is and its entries by id; an empty one where there is none. Raises CatalogError."""
    if not path.exists():
        return {"data": []}, {}
    document = load(_bytes(path))
    faults = [f"{model.id}: {model.fault}" for model in parse(document) if model.fault is not None]
    if faults:
        raise CatalogError(f"{path} must be mended first: {'; '.join(faults)}")
    return tellable(document), {entry["id"]: tellable(entry) for entry in entries(document)}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CatalogError(f"{path} cannot be read ({error.strerror})") from None


def remembered(path: Path) -> Path:
    """Where it is kept what was drafted last."""
    return path.with_name(f".{path.name}.drafted")


# --- drafting ---------------------------------------------------------------------------------------


def draft(models: Sequence[Model], only: Sequence[str]) -> Draft:
    """The entries that can be sold, or that only lack a price, reduced to what a models file needs."""
    wanted = [model for model in models if not only or any(fnmatchcase(model.id, pattern) for pattern in only)]
    if not wanted:
        raise CatalogError("no model of the list has such an id" if only else "the list is empty")
    drafted: Entries = {}
    notes: list[str] = []
    for model in wanted:
        why = model.fault or (model.unpriced if model.listing.get("pricing") is not None else None)
        if why:
            notes.append(f"left out: {model.id}: {why}")
        else:
            drafted[model.id] = _entry(model)
    return Draft(drafted, notes)


def _entry(model: Model) -> dict[str, Any]:
    known = {"context_length": model.context_length} if model.context_length is not None else {}
    kept = {key: model.listing[key] for key in KEPT if model.listing.get(key) is not None}
    if "pricing" not in kept:
        kept.pop("created", None)  # servers that list no prices tell the time of the question there
    return {"id": model.id} | kept | known


def merge(drafted: Entries, own: Entries, listed: Entries) -> Entries:
    """The own entries, brought up to date, and the new ones. Those that the list no longer names stay."""
    merged: Entries = {}
    for name in (*own, *(name for name in listed if name not in own)):
        if name in own:
            theirs = listed.get(name, drafted.get(name, {}))
            merged[name] = _merged(drafted.get(name, {}), own[name], theirs)
        elif name not in drafted:
            merged[name] = listed[name]
    return merged


def _merged(before: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """One object, key by key at any depth: what is as it was drafted follows the list, all else stays."""
    merged: dict[str, Any] = {}
    for key in (*mine, *(key for key in theirs if key not in mine)):
        was, is_, new = before.get(key, _GONE), mine.get(key, _GONE), theirs.get(key, _GONE)
        if isinstance(is_, dict) and isinstance(new, dict):
            merged[key] = _merged(was if isinstance(was, dict) else {}, is_, new)
        elif is_ != was and is_ is not _GONE:
            merged[key] = is_
        elif is_ == was and new is not _GONE:
            merged[key] = new
    return merged


def check(merged: Entries) -> list[str]:
    """What could not be sold at a price of its own, in the words of the node's banner."""
    models = parse(list(merged.values()))
    return [f"has no price: {model.id}: {why}" for model in models if (why := model.fault or model.unpriced)]


# --- writing ----------------------------------------------------------------------------------------


def _with(document: Any, merged: Entries) -> Any:
    """The document with other entries, in the shape that it has."""
    listed = list(merged.values())
    if isinstance(document, list):
        return listed
    return document | {"data" if "data" in document else "models": listed}


def _text(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _diff(before: str, after: str, path: Path) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), f"{path} (new)", lineterm="")
    return list(lines)


def write(path: Path, text: str) -> None:
    """Whole or not at all: a node that starts meanwhile reads the old file or the new one. Raises OSError."""
    target = path.resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
