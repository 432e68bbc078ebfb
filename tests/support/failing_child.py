"""A child process that ends in the way it is told to."""

from __future__ import annotations

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
