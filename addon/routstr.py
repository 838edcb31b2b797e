"""The hooks: one paid request, step by step.

    mitmdump -s addon/routstr.py --mode reverse:UPSTREAM

All branching of a request is here; what each step does is in the modules it calls. Every hook is guarded: an
exception answers 503, releases the hold, and forwards nothing, where mitmproxy by itself would forward.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from addon import arrival as heads
from addon import banner, credentials, guard, inject, orders, replies, safety, settings, upstream
from addon.api import RECEIPTS, Call, is_secret
from addon.arrival import Arrival
from addon.billing import PaidRequest
from addon.credentials import Credentials, Presented
from addon.errors import (
    Failure,
    InsufficientBalance,
    InternalError,
    Overloaded,
    PathNotFound,
    PaymentRequired,
    UnsupportedParameter,
    UpstreamError,
    UpstreamTimeout,
)
from addon.gate import Gate
from addon.ledger import Credential, new_id, patiently
from addon.metering import Meter, family_of
from addon.node import NAME as NODE_NAME
from addon.node import Node, Payment, end_of
from addon.orders import Order
from addon.replies import Caller
