"""The wallet, made to die: `python -m tests.wallet.dying MODULE QUALNAME before|after COUNT`.

It runs the wallet as it is, with one function wrapped: at its COUNT-th call the process kills itself with
SIGKILL, before the call or after it returned.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
from typing import Any

from addon.wallet.__main__ import main


def arm(module: str, qualname: str, when: str, count: int) -> None:
    """Wraps `module.qualname`, a function or a coroutine function."""
    owner_name, _, name = qualname.rpartition(".")
    owner: Any = importlib.import_module(module)
    for part in owner_name.split(".") if owner_name else []:
        owner = getattr(owner, part)
    inner, left = getattr(owner, name), [count]

    def die_if(moment: str) -> None:
        if moment == when:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(inner)
    def plain(*args: Any, **kwargs: Any) -> Any:
        die_if("before")
        result = inner(*args, **kwargs)
        die_if("after")
        return result

    @functools.wraps(inner)
    async def waiting(*args: Any, **kwargs: Any) -> Any:
        die_if("before")
        result = await inner(*args, **kwargs)
        die_if("after")
        return result

    setattr(owner, name, waiting if inspect.iscoroutinefunction(inner) else plain)


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    sys.exit(main())
