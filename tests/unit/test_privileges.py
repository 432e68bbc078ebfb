"""What a thread of a worker keeps, and that nobody else's rights change."""

from __future__ import annotations

import os
import threading

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


def own(thread: int) -> int:
    task = tasks(os.getpid())[thread]
    assert task.permitted == task.effective
    return task.effective
