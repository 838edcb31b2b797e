"""From what was metered to what is booked: the ladder for missing figures, and the settlement. Pure.

Missing usage is never free and never silently the maximum. The rung that decided is on the receipt:
`reported`, `partial` (some figures, as before a cut; the rest is counted), `timings` (llama.cpp), `counted`
(what was delivered, and the input estimated from its bytes), `suspect` (output was reported that what was
delivered belies: it is counted), `reserved` (the hold: nothing at all could be seen).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from addon.ledger import End, Settlement
from addon.metering import Extent, Family, Metered, Unseen, Usage
from addon.pricing import Charge, Price, Quantities, charge

HEARD_USUAL_TOKENS: Final = 10
"""Of a second that is heard: gpt-4o-transcribe's."""
SPOKEN_BYTES_PER_SECOND: Final = 15
INPUT_BYTES_PER_TOKEN: Final = 3
OUTPUT_BYTES_PER_TOKEN: Final = 4
"""For counting: ordinary text has about four bytes a token, and a body's JSON some more around it."""


@dataclass(frozen=True, slots=True)
class PaidRequest:
    """The facts of one paid request, fixed with its hold. `available_msat`: of the account, once held."""

    id: str
    account: str
    family: Family
    model: str
    price: Price
    usd_per_btc: Decimal | None
    hold_msat: int
    available_msat: int
    minimum_msat: int
    input_bound: int
    output_bound: int
    extent: Extent
    unseen: Unseen
    stream: bool
    hide_usage: bool
    wants_receipt: bool
    started_ms: int

    def remaining_msat(self, cost_msat: int) -> int:
        """What is left as of the hold, less this request's cost."""
        return self.available_msat + self.hold_msat - cost_msat


def bill(
    paid: PaidRequest, metered: Metered | None, *, end: End, status: int, first_byte_ms: int | None, ended_ms: int
) -> Settlement:
    """The settlement of a request that ended. `metered` None: no answer to charge for came."""
    tokens, source = _tokens(paid, metered, end)
    cost = Charge(0, 0) if tokens is None else _charge(paid, tokens, source)
    return Settlement(
        id=paid.id,
        account=paid.account,
        model=paid.model,
        path=paid.family.path,
        stream=paid.stream,
        status=status,
        end=end,
        hold_msat=paid.hold_msat,
        input_msat=cost.input_msat,
        output_msat=cost.output_msat,
        shortfall_msat=cost.shortfall_msat,
        usage_source=source,
        input_tokens=None if tokens is None else tokens.input,
        output_tokens=None if tokens is None else tokens.output,
        usage=None if metered is None else metered.raw_usage,
        usd_per_btc=paid.usd_per_btc,
        started_ms=paid.started_ms,
        first_byte_ms=first_byte_ms,
        ended_ms=ended_ms,
    )


def _tokens(paid: PaidRequest, metered: Metered | None, end: End) -> tuple[Quantities | None, str]:
    """What is paid for, and which rung of the ladder said so; None: nothing."""
    if metered is None:
        left = _quantities(_heard(paid, None, 0), _input_counted(paid, 0), _uncapped(paid))
        return (None, "none") if end != "client_left" else (left, "counted")
    usage = None if paid.extent.is_mute else metered.usage
    if usage is None and metered.failed and not _text_bytes(paid, metered):
        return None, "none"  # the upstream failed before any content
    if not metered.readable:
        return Quantities(paid.input_bound, paid.output_bound), "reserved"
    if usage is not None and usage.seconds and paid.price.tariff.second is None:
        usage = dataclasses.replace(usage, input=None, output=None)  # tokens are paid for, and seconds were told
    if usage is not None and usage.input is not None and usage.output is not None and not metered.suspect:
        return _quantities(usage, usage.input, usage.output), metered.source
    if usage is None and not metered.delivered_bytes and end != "client_left":
        return None, "none"
    told = _heard(paid, usage, _text_bytes(paid, metered))
    made = told.output or 0
    if told.output is None or metered.suspect:
        made = max(made, _output_counted(paid, metered))
    given = _input_counted(paid, told.input_audio) if told.input is None else told.input
    nothing_told = usage is None or (told.input is None and told.output is None and not usage.seconds)
    return _quantities(told, given, made), "suspect" if metered.suspect else "counted" if nothing_told else "partial"


def _quantities(usage: Usage, given: int, made: int) -> Quantities:
    return Quantities(
        given,
        made,
        cache_read=usage.cached_input,
        cache_write=usage.cache_write,
        reasoning=usage.reasoning,
        cache_write_1h=usage.cache_write_1h,
        input_audio=usage.input_audio,
        input_image=usage.input_image,
        output_audio=usage.output_audio,
        output_image=usage.output_image,
        images_made=usage.images,
        searches=usage.searches,
        seconds=usage.seconds,
    )


def _heard(paid: PaidRequest, usage: Usage | None, text_bytes: int) -> Usage:
    """What is told, and of a recording what is not: its seconds as its size tells, or the text that they hold; its
    tokens, where seconds have no price."""
    told, extent = usage or Usage(None, None), paid.extent
    if not extent.seconds:
        return told
    counted = min(extent.seconds, max(extent.usual_seconds, -(-text_bytes // SPOKEN_BYTES_PER_SECOND)))
    seconds = told.seconds or counted
    tokens = 0 if paid.price.tariff.second is not None else seconds * HEARD_USUAL_TOKENS
    audio = min(tokens, paid.input_bound) if told.input is None else told.input_audio
    return dataclasses.replace(told, seconds=seconds, input_audio=audio)


def _input_counted(paid: PaidRequest, audio_tokens: int) -> int:
    """Of text, about three bytes are a token; what is no text counts as much as it can be."""
    text = max(0, paid.extent.input_bytes - paid.unseen.bytes)
    return min(paid.input_bound, max(1, -(-text // INPUT_BYTES_PER_TOKEN)) + paid.unseen.tokens + audio_tokens)


def _text_bytes(paid: PaidRequest, metered: Metered) -> int:
    """Of the answer; of one that was asked for as plain text, all of it."""
    return metered.delivered_bytes if paid.extent.is_mute else metered.text_bytes


def _output_counted(paid: PaidRequest, metered: Metered) -> int:
    """Each delta is a token at least; where servers send several in one, the text's bytes tell more."""
    if not paid.family.has_output and not paid.extent.seconds:
        return _uncapped(paid)
    if paid.extent.seconds and paid.price.tariff.second is not None:
        return 0
    text_bytes = _text_bytes(paid, metered)
    by_text = -(-text_bytes // OUTPUT_BYTES_PER_TOKEN)
    deltas = metered.deltas if metered.is_stream else 0
    return min(paid.output_bound, max(by_text, min(deltas, text_bytes)))


def _uncapped(paid: PaidRequest) -> int:
    """Tokens of pictures or speech that usually are made, where these have no price by the piece. They are made
    whole, whether or not the client waits."""
    tariff = paid.price.tariff
    by_piece = (paid.extent.images and tariff.image_made) or (paid.extent.characters and tariff.character)
    return 0 if by_piece else min(paid.output_bound, paid.extent.usual_tokens)


def _charge(paid: PaidRequest, tokens: Quantities, source: str) -> Charge:
    told = {"hold_msat": paid.hold_msat, "minimum_msat": paid.minimum_msat, "held_at_ms": paid.started_ms}
    if source == "reserved":
        inputs = charge(paid.price, Quantities(tokens.input, 0), **told)
        return Charge(inputs.total_msat, paid.hold_msat - inputs.total_msat)
    pieces = {
        "images_sent": paid.unseen.images,
        "images_made": min(paid.extent.images, tokens.images_made or paid.extent.images),
        "characters": paid.extent.characters,
        "seconds": tokens.seconds or min(paid.extent.seconds, max(paid.extent.usual_seconds, 1)),
    }
    return charge(paid.price, dataclasses.replace(tokens, **pieces), **told)
