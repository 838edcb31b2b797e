"""`python -m addon.wallet`: one owner per state directory; everything else is in `server.py`.

Exit 75: another wallet owns the directory. Exit 78: the settings cannot be read. What it has to say goes
to standard error, which the proxy points to `wallet.log`; it never holds a secret.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

from addon.errors import Failure, SettingsError
from addon.settings import Settings, load
from addon.treasury import SOCKET_NAME, settings_hash, wallet_home
from addon.wallet.server import Server
from addon.wallet.vault import Vault

OWNED: Final = 75
MISSET: Final = 78

log = logging.getLogger("wallet")


def main() -> int:
    """Runs the wallet to its end; returns the exit status."""
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = load()
    except Failure as failure:
        log.error("%s", failure.message)
        return MISSET
    finally:
        os.environ.pop("NSEC", None)
    try:
        _own(wallet_home(settings.state_dir))
    except BlockingIOError:
        return OWNED
    except OSError as error:
        log.error("%s", _unusable(error).message)
        return MISSET
    return asyncio.run(_serve(settings))


def _own(home: Path) -> None:
    """Locks the directory, until this process ends. Raises BlockingIOError when another one has it, or OSError."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unusable(error: OSError) -> SettingsError:
    return SettingsError(f"STATE_DIR: {error.filename} cannot be used ({error.strerror}). Whose is it?")


async def _serve(settings: Settings) -> int:
    state_dir = settings.state_dir.resolve()
    vault: Vault | None = None
    failure: Failure | None = None
    try:
        vault = Vault(settings, state_dir)
        vault.start()
    except Failure as error:
        failure = error
    except OSError as error:
        failure = _unusable(error)
    if failure is not None:
        log.error("%s", failure.message)
    await Server(vault, failure, settings_hash(settings)).serve(wallet_home(state_dir) / SOCKET_NAME)
    if vault is not None:
        vault.close()
    _end(0)
    return 0


def _end(status: int) -> None:
    """At once: swaps whose outcome is unknown are in the journal, and go on at the next start."""
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
