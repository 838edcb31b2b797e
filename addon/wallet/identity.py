"""The node's one secret: from NSEC, or made once and kept beside the ledger.

It is read by this process alone. Lost together with the state directory, it loses what every client has
here; found by somebody else, it spends it.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Final

from bech32 import bech32_decode, bech32_encode, convertbits

from addon.errors import SettingsError
from addon.wallet.curve import public_key

SECRET_FILE: Final = "nsec"
OWNER_FILE: Final = "npub"
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
_NOTE: Final = """\
# The secret of this Routstr node. It was made here because no NSEC was set.
# All ecash of the node and the sk- keys of its clients are derived from it: back this file up together with
# ledger.db, offline and encrypted. Who has it can spend the node's coins. Setting NSEC to the line below does
# the same as this file. Never run two nodes with one secret.
"""


def node_secret(nsec: str, state_dir: Path) -> bytes:
    """32 bytes: NSEC (nsec1… or hex), else the state directory's own, made on first use. Raises SettingsError."""
    if nsec.strip():
        return _parse(nsec.strip(), "NSEC")
    path = state_dir / SECRET_FILE
    if not path.exists():
        _keep(path, _NOTE + _bech32("nsec", secrets.token_bytes(32)) + "\n")
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    return _parse("".join(line for line in lines if not line.startswith("#")), f"NSEC ({path})")


def npub(secret: bytes) -> str:
    """The node's public name (NIP-19)."""
    return _bech32("npub", public_key(secret)[1:])


def claim(home: Path, name: str) -> None:
    """This directory belongs to this node. Raises SettingsError when another NSEC's coins are in it."""
    path = home / OWNER_FILE
    if not path.exists():
        _keep(path, name + "\n")
    owner = path.read_text("utf-8").strip()
    if owner != name:
        raise SettingsError(
            f"NSEC: it is the secret of {name}, but STATE_DIR holds the coins and keys of {owner}. Set the NSEC "
            "of that node, or choose another STATE_DIR."
        )


def _parse(text: str, name: str) -> bytes:
    secret = bytes.fromhex(text) if _HEX.fullmatch(text) else _from_bech32(text)
    try:
        public_key(secret or b"")
    except ValueError:
        raise SettingsError(f"{name}: must be a Nostr secret key: nsec1… or 64 hex digits.") from None
    return secret or b""


def _from_bech32(text: str) -> bytes | None:
    prefix, data = bech32_decode(text)
    raw = convertbits(data, 5, 8, False) if prefix == "nsec" and data is not None else None
    return bytes(raw) if raw is not None and len(raw) == 32 else None


def _bech32(prefix: str, raw: bytes) -> str:
    data = convertbits(raw, 8, 5)
    assert data is not None
    return str(bech32_encode(prefix, data))


def _keep(path: Path, text: str) -> None:
    """Written whole or not at all: a half-written secret would be another node."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
