"""Hears netlink for as long as the agent runs: links and addresses of the node, and of the namespaces it knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redirect import host_addresses
from redirect.host_addresses import Heard

log = logging.getLogger(__name__)


async def hear_interfaces(hear: Callable[[Heard], None]) -> None:
    """Pass on each piece of news as it comes, until cancelled."""
    watch = host_addresses.Watch()
    if not watch.hears_elsewhere:
        log.warning(
            "without CAP_NET_BROADCAST nothing is heard from inside pods: addresses that they get later are looked "
            "for every second"
        )
    loop = asyncio.get_running_loop()
    # Read at once: a socket that stays readable while a turn takes its time would keep the loop spinning.
    loop.add_reader(watch.fileno(), lambda: hear(watch.read()))
    try:
        await asyncio.Event().wait()
    finally:
        loop.remove_reader(watch.fileno())
        watch.close()
