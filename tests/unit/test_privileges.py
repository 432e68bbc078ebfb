"""A worker's main thread cannot do what only the start needed; the threads that make sockets still can."""

from __future__ import annotations

import threading

from agent import privileges
from agent.privileges import CAP_NET_BIND_SERVICE, drop_privileges, effective

CAP_SYS_ADMIN = 21


def test_only_the_calling_thread_loses_its_rights() -> None:
    before = effective()
    after: list[int] = []

    def work() -> None:
        drop_privileges()
        after.append(effective())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert after == [1 << CAP_NET_BIND_SERVICE]
    assert effective() == before
    assert before & (1 << CAP_SYS_ADMIN), "the test proves nothing without root"
    assert privileges.effective() == before
