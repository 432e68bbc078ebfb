"""What a thread of a worker keeps, and that nobody else's rights change."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.privileges import CAP_NET_BIND_SERVICE, CAP_NET_RAW, keep_only
from tests.support.tasks import tasks

CAP_SYS_ADMIN = 21


def test_only_the_calling_thread_loses_its_rights_and_those_it_makes_have_no_more() -> None:
    before = own(threading.get_native_id())
    after: dict[str, int] = {}

    def made_later() -> None:
        after["made later"] = own(threading.get_native_id())

    def work() -> None:
        keep_only(CAP_NET_RAW, CAP_NET_BIND_SERVICE)
        after["caller"] = own(threading.get_native_id())
        thread = threading.Thread(target=made_later)
        thread.start()
        thread.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    kept = 1 << CAP_NET_RAW | 1 << CAP_NET_BIND_SERVICE
    assert after == {"caller": kept, "made later": kept}
    assert own(threading.get_native_id()) == before
    assert before & (1 << CAP_SYS_ADMIN), "the test proves nothing without root"


DIES = """
import os, resource
from agent.privileges import keep_only, refuse_core_dumps
_, most = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
# Means nothing to the programs that dumps are piped to: so this must do without.
resource.setrlimit = lambda *_: None
{first}
print(open("/proc/self/status").read().count("Name:"), len(os.listdir("/proc/self/fd")) > 0, flush=True)
os.abort()
"""


def leaves_a_core(tmp_path: Path, first: str) -> bool:
    """Whether a process that may write one, and aborts, has the kernel make it, as a file or for a program."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", DIES.format(first=first)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.read() == "1 True\n", "it sees itself in /proc"
    process.stdout.close()
    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0
    assert os.WIFSIGNALED(status)
    return os.WCOREDUMP(status)


@pytest.mark.parametrize(
    ("first", "is_left"),
    [
        ("", True),
        ("refuse_core_dumps()", False),
        ("refuse_core_dumps(is_looked_at=True)", False),
        # Whoever has to see it in /proc could not.
        ("keep_only(); refuse_core_dumps(is_looked_at=True)", True),
    ],
)
def test_a_process_that_refuses_leaves_no_core_whatever_its_limit(
    tmp_path: Path, first: str, is_left: bool
) -> None:
    if is_left and not leaves_a_core(tmp_path, ""):
        pytest.skip("this machine makes no core dumps (kernel.core_pattern)")
    assert leaves_a_core(tmp_path, first) == is_left


def own(thread: int) -> int:
    task = tasks(os.getpid())[thread]
    assert task.permitted == task.effective
    return task.effective
