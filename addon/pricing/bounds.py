"""How large a request can become: the bounds that its hold is made of, and the cap that enforces them.

The bytes that go upstream are those that were priced: where a cap is lowered, or none was named, the
number written into the body is the number that was held.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from addon.catalog import Model
from addon.errors import InsufficientBalance, InvalidParameter
from addon.pricing.cost import Price, Quantities, dearest_output, worst_case

TEMPLATE_TOKENS: Final = 1024
"""What a chat template, a tool preamble or a tokenizer's special tokens may add to the body's own bytes."""
BYTES_PER_TOKEN_LEFT: Final = 2
"""For the room that a prompt needs beside its answer: a token of ordinary text has at least two bytes."""
MAX_UNKNOWN: Final = 1 << 31
"""Tokens: the limit where neither the model's nor its context is known."""
NOTHING_COUNTED: Final = Quantities(0, 0)


@dataclass(frozen=True, slots=True)
class Cap:
    """The output cap that a client named: the fields it used, and the largest number among them."""

    fields: tuple[str, ...]
    asked: int | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that a request can use. `must_cap`: the upstream does not stop by itself, so a cap is written.

    `media`: there may be audio or images among the input's tokens, each at a price of its own; `counted`: what
    is paid by the piece, as the most of each. `is_fixed`: nothing can lower the output.
    """

    input_tokens: int
    output_tokens: int
    must_cap: bool
    media: bool = False
    counted: Quantities = NOTHING_COUNTED
    is_fixed: bool = False

    def most(self, output_tokens: int) -> Quantities:
        """The same as quantities, under a cap on the output."""
        media = self.input_tokens if self.media else 0
        return dataclasses.replace(
            self.counted,
            input=self.input_tokens,
            output=output_tokens,
            input_audio=media,
            cached_audio=media,
            input_image=media,
        )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A hold that the balance affords. `output_tokens` is the cap that goes with it."""

    hold_msat: int
    output_tokens: int


def asked_cap(body: Mapping[str, object], names: Sequence[str]) -> Cap:
    """The cap among a family's names for it; null means absent. Raises InvalidParameter, naming the field."""
    given = {name: body[name] for name in names if body.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidParameter(f"{name} must be a whole number of at least 1.", param=name)
    return Cap(tuple(given), max((v for v in given.values() if isinstance(v, int)), default=None))


def bounds_of(
    model: Model, cap: Cap, *, body_bytes: int, has_output: bool, unseen_input: bool, self_bounded: bool,
    default_context: int, min_output: int, counted: Quantities = NOTHING_COUNTED, made_tokens: int = 0,
) -> Bounds:  # fmt: skip
    """The bounds of one request. `counted`: images, searches, seconds, characters, the most of each. `made_tokens`:
    of output that no cap bounds, where a request generates no text.

    Tokens are at most bytes (byte-level BPE, SentencePiece with byte fallback). `unseen_input`: the body
    refers to what it does not hold (images, files): the whole context. `self_bounded`: the server ends an
    answer at its context by itself.
    """
    context = model.context_length
    by_bytes = body_bytes + TEMPLATE_TOKENS
    inputs = (context or max(default_context, by_bytes)) if unseen_input else min(context or by_bytes, by_bytes)
    if not has_output:
        # many texts in one body, each up to the context
        return Bounds(by_bytes, made_tokens, False, unseen_input, counted, is_fixed=True)
    limit = min(model.max_output or context or default_context, context or MAX_UNKNOWN)
    if cap.asked is not None:
        return Bounds(inputs, min(cap.asked, limit), True, unseen_input, counted)
    whole = context or default_context
    if limit >= whole and context is not None and self_bounded:
        return Bounds(inputs, whole, False, unseen_input, counted)
    room = max(whole - body_bytes // BYTES_PER_TOKEN_LEFT, min_output)
    return Bounds(inputs, min(limit, room), True, unseen_input, counted)


def least(price: Price, bounds: Bounds, *, min_output: int, minimum_msat: int) -> int:
    """The smallest acceptable hold of a request, in msat: what a balance or a token must bring."""
    output = bounds.output_tokens if bounds.is_fixed else min(bounds.output_tokens, min_output)
    return _hold(price, bounds, output, minimum_msat)


def fit(
    price: Price, bounds: Bounds, *, available_msat: int, min_output: int, minimum_msat: int, whole: bool = False
) -> Fitted:  # fmt: skip
    """The hold that follows the balance: the worst case in full where it is affordable, otherwise the output
    lowered so that the hold fits in half of what is available (in all of it: `whole`), but not below `min_output`.

    Raises InsufficientBalance.
    """
    full = _hold(price, bounds, bounds.output_tokens, minimum_msat)
    if full <= available_msat:
        return Fitted(full, bounds.output_tokens)
    needed = least(price, bounds, min_output=min_output, minimum_msat=minimum_msat)
    if needed > available_msat:
        raise InsufficientBalance(needed, available_msat)
    spare_msat = (available_msat if whole else available_msat // 2) - _hold(price, bounds, 0, minimum_msat)
    affordable = max(0, int(spare_msat / price.msat(dearest_output(price, bounds.most(1)))))
    output = min(bounds.output_tokens, max(min_output, affordable))
    return Fitted(_hold(price, bounds, output, minimum_msat), output)


def _hold(price: Price, bounds: Bounds, output_tokens: int, minimum_msat: int) -> int:
    return worst_case(price, bounds.most(output_tokens), minimum_msat=minimum_msat)
