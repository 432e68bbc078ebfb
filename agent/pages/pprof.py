"""`/debug/pprof/*`: what ztunnel profiles by itself, and this agent does not: said, with what to do instead."""

from __future__ import annotations

import os

from agent.admin.server import Request, Response, text

PROFILE, HEAP, HEAP_PROFILING = "/debug/pprof/profile", "/debug/pprof/heap", "/debug/pprof/heap/profiling"
INSTEAD = {
    PROFILE: "py-spy record --native --subprocesses --pid {pid}",
    HEAP: "memray attach {pid}",
    HEAP_PROFILING: "memray attach {pid}",
}


async def pprof_page(request: Request) -> Response:
    command = INSTEAD[request.path].format(pid=os.getpid())
    return text(f"no profiler is in this process: as root of the node, `{command}` looks into it\n", 501)
