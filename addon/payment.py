"""One paid request on its way: the frozen facts, and what is learnt of its answer."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mitmproxy import http

from addon.billing import PaidRequest, bill
from addon.ledger import End, Settlement
from addon.metering import Meter, Metered
from addon.replies import Caller


@dataclass(frozen=True, slots=True)
class Payer:
    """The account that pays a request. `is_single`: it was opened by a single payment, for this request alone."""

    account: str
    available_msat: int
    is_single: bool


@dataclass(slots=True)
class Payment:
    """Kept by the node, taken out once: whoever takes it closes it.

    `told`: headers that tell what was changed in the request. `admitted_at`: monotonic. `delivered`: some of
    the answer is with the client. `is_single`: an `X-Cashu` token pays, whose change goes with the answer;
    `live`: a stream goes on as it comes; a single payment's waits for its end, unless its change may come in an event.
    `left_at` (monotonic): its client left, and the answer is read on; `left_bytes`: of it, until then.
    """

    paid: PaidRequest
    flow: http.HTTPFlow
    caller: Caller
    told: list[tuple[bytes, bytes]]
    is_single: bool
    live: bool
    admitted_at: float
    meter: Meter | None = None
    metered: Metered | None = None
    settlement: Settlement | None = None
    status: int = 0
    first_byte_ms: int | None = None
    timed_out: bool = False
    left_at: float | None = None
    left_bytes: int = 0

    @property
    def delivered(self) -> bool:
        return self.meter is not None

    @property
    def is_read_on(self) -> bool:
        """Whether its answer still comes in though the client left."""
        return self.left_at is not None and not self.timed_out

    @property
    def passed(self) -> int:
        """Bytes of the answer that came and were not held."""
        return 0 if self.meter is None else self.meter.passed

    def leave(self) -> bool:
        """The client left: whether its answer is read on, for the figures that have not come yet."""
        if self.settlement is not None or (self.meter is not None and self.meter.is_told):
            return False
        self.left_at, self.left_bytes = time.monotonic(), self.passed
        return True

    @property
    def whole(self) -> End:
        """How a flow ended whose answer came whole."""
        return "complete" if self.left_at is None else "client_left"

    def measured(self) -> Metered | None:
        """What the meter says, asked for once, at the end."""
        if self.metered is None and self.meter is not None:
            self.metered = self.meter.finish()
        return self.metered

    def settle(self, end: End) -> Settlement:
        """The settlement, made once: what the client is told is what is booked."""
        if self.settlement is None:
            self.settlement = bill(
                self.paid,
                self.measured(),
                end=end,
                status=self.status,
                first_byte_ms=self.first_byte_ms,
                ended_ms=time.time_ns() // 1_000_000,
            )
        return self.settlement

    def forget(self) -> None:
        """What was found out of an answer that a bug of ours ended: nothing is taken for it, unless its figures are
        with the client already."""
        if self.settlement is None or not self.delivered:
            self.settlement = self.metered = None
        self.meter = None

    def end(self) -> End:
        """How a flow that ended in `error` ended: who left first?"""
        metered = self.measured()
        if self.left_at is not None:
            return "client_left" if self.delivered or self.timed_out else "upstream_failed"
        if metered is not None and metered.complete:
            return "complete"
        error = self.flow.error
        if error is not None and error.msg == "Client disconnected.":
            return "client_left"
        return "cut" if self.delivered else "upstream_failed"
