"""A child process that ends in the way it is told to."""

from __future__ import annotations

import json
import os
import signal
import sys


def main() -> None:
    match sys.argv[1]:
        case "refuse":
            sys.exit("the sky is the wrong colour")
        case "system":
            os.stat("/run/netns/nobody")
        case "defect":
            {}["lost"]
        case "exit":
            sys.exit(7)
        case "complain":
            sys.stderr.write("last words\n")
            sys.exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            signal.pause()
        case "tell":
            tell(int(sys.argv[2]))


def tell(fd: int) -> None:
    """What this process is, on a descriptor of its own."""
    held = [int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
    said = {"held": sorted(held), "parent": os.getppid(), "session": os.getsid(0), "directory": os.getcwd()}
    os.write(fd, json.dumps(said | {"modules": sorted(sys.modules)}).encode())
