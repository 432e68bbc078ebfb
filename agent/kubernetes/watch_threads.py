"""Runs watchers, each in a thread, for as long as the task that asks lives."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent.kubernetes.watcher import Watcher


async def run_all(watchers: Sequence[Watcher[Any]], beside: Coroutine[Any, Any, None]) -> None:
    """Until cancelled, or until one of them or what runs beside them fails; then all are stopped."""
    # Threads of their own: those of the event loop are few, and for what is done soon.
    with ThreadPoolExecutor(len(watchers), "kubernetes") as threads:
        try:
            async with asyncio.TaskGroup() as group:
                for watcher in watchers:
                    group.create_task(_run(watcher, threads))
                group.create_task(beside)
        finally:
            for watcher in watchers:
                watcher.stop()


async def _run(watcher: Watcher[Any], threads: ThreadPoolExecutor) -> None:
    try:
        await asyncio.get_running_loop().run_in_executor(threads, watcher.run)
    finally:
        # The thread goes on when the task is cancelled: its pool waits for it.
        watcher.stop()
