"""A control process with two fake workers that a test can stop (SIGSTOP): it obeys lines on stdin and answers them.

Arguments: run directory, silence limit in seconds. `pids` answers those of the workers; `policy` sends a change, says
so, and waits until all apply it; `reports N` waits until each worker has reported N times more.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

from agent.supervisor.patience import TURN_S
from tests.support.crews import LIMITS, Played, crew_of, until

POLICY_PATIENCE_S = 2 * TURN_S
"""So little that one turn with a pause in it uses it up."""


async def answer(played: Played, line: str) -> object:
    match line.split():
        case ["pids"]:
            return played.pids
        case ["policy"]:
            played.send_policy()
            say("sent")
            await played.crew.applied(played.revision, POLICY_PATIENCE_S)
            return played.pids
        case ["reports", count]:
            wanted = {pid: played.reports[pid] + int(count) for pid in played.pids.values()}
            await until(
                lambda: all(pid in played.ended or played.reports[pid] >= n for pid, n in wanted.items()),
                line,
            )
            return played.pids
        case _:
            raise ValueError(line)


async def run(directory: Path, silence_s: float) -> None:
    limits = replace(LIMITS, silence_s=silence_s)
    async with crew_of(directory, limits=limits) as played:
        played.crew.open_gates()
        say(played.addresses)
        while line := await asyncio.to_thread(sys.stdin.readline):
            say(await answer(played, line))


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    asyncio.run(run(Path(sys.argv[1]), float(sys.argv[2])))
