"""The first code of the control process: has the nursery of workers forked while there is nothing to hide, then runs.

`ztun agent` becomes this by execve(2): an isolated interpreter without the command line's modules. What control and
workers both need is imported before the fork, so that a node holds it once; gRPC and everything else of control comes
after it, and with it threads, certificates and keys, which no worker can inherit.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Sequence

from agent import config
from agent.fd_limit import raise_fd_limit
from redirect import child
from redirect.nursery import Nursery
from redirect.shown_command import show_as

WORKER = "agent.worker"
SHARED = (
    "agent.channel_socket",
    "agent.fd_limit",
    "agent.identity.handshake",
    "agent.log",
    "agent.mesh_state",
    "agent.model.listener",
    "agent.net.sockets",
    "agent.telemetry.metrics",
    "agent.telemetry.record",
    "redirect.side",
)
"""What both import; what only one of them does would be held, and never used, by the other."""


def begun(shown: Sequence[str]) -> Nursery:
    """The nursery of workers, forked from this process. Raises OSError."""
    show_as(shown)
    # Workers have no right to raise their limit: they inherit it.
    raise_fd_limit()
    for module in SHARED:
        importlib.import_module(module)
    return Nursery.forked(WORKER)


def main() -> None:
    # What is imported stays: there is nothing to collect yet, and looking for it would take a tenth of the start.
    gc.disable()
    told = child.flags(sys.argv[1:])
    settings = config.build(json.loads(told["options"]))
    nursery = begun(json.loads(told["shown"]))
    # Only here: gRPC makes threads, and nothing of control may be in workers.
    from agent import app
    from agent.start_error import StartError

    try:
        app.run(settings, nursery, json.loads(told["notes"]))
    except StartError as error:
        sys.exit(f"ztun: {error}")
    except KeyboardInterrupt:
        sys.exit("ztun: interrupted")
