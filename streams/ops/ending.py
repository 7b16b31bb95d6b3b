"""SIGTERM ends a command as Ctrl-C does: its work is cancelled, and what it started and wrote goes with it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

ENDED = (KeyboardInterrupt, asyncio.CancelledError)
"""What running a work raises that was ended by either signal."""
EXIT_ENDED = 130


async def by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    """Do the work, to be cancelled by SIGTERM. A handler that raises would strike in the middle of anything."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work
