"""The workers' processes in a running mesh: their rights, and how one generation of them follows another."""

from __future__ import annotations

import pytest

from agent.privileges import CAP_NET_BIND_SERVICE, CAP_NET_RAW
from redirect import netns
from redirect.sides import sides_of
from tests.support.labmesh import World
from tests.support.tasks import Task, tasks

pytestmark = pytest.mark.kernel


def test_each_thread_of_a_worker_has_the_rights_that_the_documents_give_it(world: World) -> None:
    log = world.log("node-a")
    world.ask("client-a", world.address("server-b"))
    log.line("connection complete")
    sides = {netns.inode(side.netns) for side in sides_of(world.mesh.instance("node-a"))}
    writers: list[Task] = []
    for pid in world.workers("node-a").values():
        threads = tasks(pid)
        makers = [task for task in threads.values() if task.netns in sides]
        assert {task.netns for task in makers} == sides and len(makers) == 2
        assert {task.permitted for task in makers} == {1 << CAP_NET_RAW}
        assert threads[pid].permitted == 1 << CAP_NET_BIND_SERVICE
        writers += [task for tid, task in threads.items() if task not in makers and tid != pid]
        assert all(task.effective == task.permitted for task in threads.values())
        assert all(task.no_new_privileges for task in threads.values())
    assert writers and {task.permitted for task in writers} == {0}
