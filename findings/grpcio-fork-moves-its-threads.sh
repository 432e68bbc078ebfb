#!/usr/bin/env bash
# grpcio 1.85.1: a process that forks while its thread is in another network namespace takes grpc's own threads there.
#
# Before a fork grpc ends the threads that connect and read for it, and makes them anew after it, from the thread that
# forks (GRPC_ENABLE_FORK_SUPPORT, on by default on Linux). A thread starts in the network namespace of the one that makes
# it. So after `setns`, fork, `setns` back, everything of Python is at home, and whatever grpc dials from then on leaves
# from the other namespace: "connection refused", also by a server of the same process. A subprocess does not do it, as
# Python starts those by vfork. Matters to whoever enters namespaces of pods in a process that speaks gRPC, as node agents
# of meshes and their tests do: enter and fork in a process of its own, or start with GRPC_ENABLE_FORK_SUPPORT=0.
#
# Needs root (it makes a network namespace). Seen on Linux 6.18, Python 3.11; exits non-zero when that changes.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
/usr/bin/python3 -m venv "$where/env"
"$where/env/bin/pip" -q --disable-pip-version-check install "grpcio==1.85.1"
cat >"$where/forks.py" <<'PYTHON'
import asyncio
import ctypes
import os
import subprocess

import grpc

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


async def is_reached(port: int) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), 5)
        except TimeoutError:
            return False
    return True


async def main() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    before = await is_reached(port)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert libc.setns(home, CLONE_NEWNET) == 0
    away = 0
    for task in os.listdir("/proc/self/task"):
        away += os.stat(f"/proc/self/task/{task}/ns/net").st_ino != os.fstat(home).st_ino
    print(f"reached before: {before}, after: {await is_reached(port)}; threads elsewhere: {away > 0}")
    os._exit(0)


asyncio.run(main())
PYTHON
by_default=$("$where/env/bin/python" -u "$where/forks.py" 2>/dev/null)
without=$(GRPC_ENABLE_FORK_SUPPORT=0 "$where/env/bin/python" -u "$where/forks.py" 2>/dev/null)
echo "by default:  $by_default"
echo "switched off: $without"
[ "$by_default" = "reached before: True, after: False; threads elsewhere: True" ]
[ "$without" = "reached before: True, after: True; threads elsewhere: False" ]
