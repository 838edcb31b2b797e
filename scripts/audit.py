"""Proves the books: prints each invariant and what breaks it; exits 1 on any finding.

    python scripts/audit.py [STATE_DIR]

It reads the ledger while the node runs or when it does not, and changes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from addon.errors import Failure
from addon.ledger import FILE_NAME, INVARIANTS, WALLET_WAIT_MS, Singles, Store, audit, solvency
from addon.money import sats_text


def main(arguments: list[str]) -> int:
    """0: the books prove. 1: they do not. 2: there are none to read."""
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 2
    path = Path(arguments[0] if arguments else "state") / FILE_NAME
    if not path.is_file():
        print(f"No ledger at {path}: name the node's STATE_DIR.", file=sys.stderr)
        return 2
    try:
        store = Store.open(path, wait_ms=WALLET_WAIT_MS, durable=False)
    except Failure as failure:
        print(failure.message, file=sys.stderr)
        return 2
    try:
        return report(store)
    finally:
        store.close()


def report(store: Store) -> int:
    """Prints the five rules with their findings, and each purse."""
    findings = audit(store)
    for rule in INVARIANTS:
        text = (rule.__doc__ or "").splitlines()[0]
        broken = [f.what for f in findings if f.check == rule.__name__]
        print(f"{'FAIL' if broken else 'ok  '} {text}")
        for what in broken:
            print(f"       {what}")
    for purse in solvency(store.db):
        owed, held = sats_text(purse.owed_msat), sats_text(purse.held_msat)
        left = sats_text(purse.surplus_msat)
        print(f"     {purse.purse.mint} ({purse.purse.unit}): owed {owed} sat, coins {held} sat, yours {left} sat")
    count, waiting_msat = Singles(store).waiting()
    if count:
        print(
            f"     {count} single payments are not over: {sats_text(waiting_msat)} sat are set aside for their payers"
        )
    print(f"{len(findings)} findings" if findings else "The books prove.")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
