"""What a mint's answers mean for a swap. Pure: answers in, a verdict out. The whole table:

    state found      question to the mint     answer                                    verdict
    row just opened  POST /v1/swap            signed                                    EXECUTED
                                              not connected, 429                        REFUSED
                                              11001, 11003, no code                     LOOK
                                              any other code                            REFUSED
                                              anything else                             LOOK
    row found open,  NUT-07 of the inputs,    tag signed                                EXECUTED
    or LOOK          then NUT-09 of our       tag unsigned, an input SPENT              SPENT
                     outputs                  … UNSPENT, other outputs signed           STALE
                                              … UNSPENT, none, the POST was refused     REFUSED
                                              … none signed otherwise                   REPEAT
                                              … PENDING, others signed; no answer       LOOK
    REPEAT           POST, the same outputs   signed                                    EXECUTED
                                              a code but 11001…11004                    LOOK: was refused
                                              no code, and every POST was answered      LOOK: was refused
                                              anything else                             LOOK

Inputs are asked about first: the other way round, a swap that commits in between looks like somebody
else's. The *tag* is the output whose secret is random: NUT-07 and NUT-09 do not say which inputs paid for
which outputs, and an earlier life of the seed has signatures on all the others. So only a signed tag is
credited. STALE: those signatures were met, and this request can never be executed.

11001 to a first POST is looked into, too: what stands between us and the mint may have sent it twice, and
the second was refused for what the first did.

A paid invoice is minted by the same table (`minting.py`): POST /v1/mint/bolt11 for the swap, and the state of the
quote for that of the inputs, ISSUED for SPENT, PAID for UNSPENT; each coded refusal of a first POST is a LOOK.

A verdict against the client that comes from looking while a POST may still be at work is believed when
two looks in a row agree.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Final

from addon.wallet.answers import ProofState
from addon.wallet.wire import Coded, NoAnswer, RateLimited, Uncoded, Unreachable

SPENT_CODE: Final = 11001
PENDING_CODE: Final = 11002
SIGNED_CODE: Final = 11003
AMBIGUOUS_WHEN_REPEATED: Final = frozenset((11001, 11002, 11003, 11004, 20002, 20005))
"""Spent, pending, signed, being signed, and a quote issued or pending: by ourselves, perhaps."""
KEYSET_CODES: Final = frozenset((11000, 11005, 12001, 12002))
"""The mint's keysets or fees are not those that we know: nothing executed, ask for them again."""


class Verdict(Enum):
    """`EXECUTED`: store and credit. `SPENT`: final. `REFUSED`, `STALE`: the coins are still whose they were."""

    EXECUTED = "executed"
    SPENT = "spent"
    REFUSED = "refused"
    STALE = "stale"
    REPEAT = "repeat"
    LOOK = "look"


def of_first_post(answer: NoAnswer, *, minting: bool = False) -> Verdict:
    """What a first POST's answer means. A mint's refusal to mint is always looked into: it has been paid already."""
    match answer:
        case Unreachable() | RateLimited():
            return Verdict.REFUSED
        case Coded(code=code) if code not in (SPENT_CODE, SIGNED_CODE) and not minting:
            return Verdict.REFUSED
        case _:
            return Verdict.LOOK


def was_refused(answer: NoAnswer, *, certain: bool) -> bool:
    """Whether a repeated POST was certainly not executed. `certain`: none before it can still be at work."""
    if isinstance(answer, Coded):
        return answer.code not in AMBIGUOUS_WHEN_REPEATED
    return certain and isinstance(answer, Uncoded)


def of_look(states: Collection[ProofState], signed: Mapping[str, object], *, tag: str, refused: bool) -> Verdict:
    """What the inputs' states and our signed outputs mean. `refused`: the last POST certainly did nothing."""
    if tag in signed:
        return Verdict.EXECUTED
    if "SPENT" in states:
        return Verdict.SPENT
    untouched = set(states) == {"UNSPENT"}
    if signed:
        return Verdict.STALE if untouched else Verdict.LOOK
    return Verdict.REFUSED if refused and untouched else Verdict.REPEAT
