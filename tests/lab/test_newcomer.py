"""A pod whose start waits is looked for alone: whatever of the node leads into its namespace is closed, and no more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from agent.enroll import newcomer, search
from agent.enroll.sighting import Found
from agent.enroll.wish import PodInstance, PodKey, WantedBy, Where, Wish
from agent.model.address import parse_ip
from redirect import netlink, netns
from redirect.errors import StepFailed

pytestmark = pytest.mark.kernel

KEY = PodKey("demo", "web")
NAMES = tuple(f"nc{os.getpid()}{letter}" for letter in "nab")


class Closing:
    """In the place of the kernel side: what it was to close, and for whom."""

    instance = "none"

    def __init__(self) -> None:
        self.closed: dict[str, str] = {}
        """By name, for whom; with empty words where nothing new was said of that."""
        self.is_outward_only = False
        self.error: StepFailed | None = None

    def close_off(
        self,
        interfaces: dict[int, str],
        running: object,
        owners: dict[int, str],
        *,
        is_outward_only: bool = False,
        learnt: object = (),
    ) -> None:
        if self.error:
            raise self.error
        self.is_outward_only = is_outward_only
        self.closed |= {name: owners.get(index, "") for index, name in interfaces.items()}


@pytest.fixture
def node() -> Iterator[list[Path]]:
    """A node's namespace and two pods' in it: two veths lead to the first pod, one to the second, one nowhere."""
    try:
        paths = [netns.create(name) for name in NAMES]
        with netns.entered(paths[0]), IPRoute() as ip:
            ends = {"one": (NAMES[1], "eth0"), "two": (NAMES[1], "net1"), "other": (NAMES[2], "eth0")}
            for name, (namespace, ifname) in ends.items():
                ip.link("add", ifname=name, kind="veth", peer={"ifname": ifname, "net_ns_fd": namespace})
            ip.link("add", ifname="inner", kind="veth", peer={"ifname": "inner2"})
        with netns.entered(paths[1]), IPRoute() as ip:
            # Not of this node, though its number may be that of an interface of it.
            ip.link("add", ifname="bridge", kind="veth", peer={"ifname": "bridge2"})
            (index,) = ip.link_lookup(ifname="eth0")
            ip.addr("add", index=index, address="10.0.0.7", prefixlen=24)
            ip.link("set", index=index, state="up")
        yield paths
    finally:
        for name in NAMES:
            netns.remove(name)


def look(node: list[Path], closing: Any, where: Where, captured: set[int] = frozenset()) -> Found | None:  # type: ignore[assignment]
    with netns.entered(node[0]):
        return newcomer.look_for(closing, KEY, Wish(KEY, where, WantedBy.KUBERNETES, uid="u1"), captured)


def test_everything_that_leads_there_is_closed_in_the_pods_name_as_a_whole_look_would(
    node: list[Path],
) -> None:
    alone, whole = Closing(), Closing()
    where = Where(netns=str(node[1]))
    found = look(node, alone, where)
    assert found is not None and alone.closed == {"one": "demo/web u1", "two": "demo/web u1"}
    with netns.entered(node[0]):
        wish = Wish(KEY, where, WantedBy.KUBERNETES, uid="u1")
        expected = search.search(whole, {KEY: wish}, {}, ())  # type: ignore[arg-type]
    assert whole.closed == alone.closed and found.sightings == expected.sightings
    assert (whole.is_outward_only, alone.is_outward_only) == (False, True)
    behind = Closing()
    assert newcomer.finish(behind, found) == ()  # type: ignore[arg-type]
    assert behind.closed.keys() == alone.closed.keys() and not behind.is_outward_only
    place = found.sightings[KEY].place
    assert place is not None and place.addresses == (parse_ip("10.0.0.7"),)
    again = Closing()
    assert look(node, again, where, set(found.present)) == Found(found.sightings, found.present)
    assert not again.closed


def test_what_only_a_whole_look_can_tell_is_left_to_it(node: list[Path], tmp_path: Path) -> None:
    closing = Closing()
    (tmp_path / "plain").touch()
    uid = PodInstance("u1", (parse_ip("10.0.0.7"),))
    for where in (Where(pod=uid), *(Where(netns=str(tmp_path / name)) for name in ("gone", "plain"))):
        assert look(node, closing, where) is None
    with netns.entered(node[0]), IPRoute() as ip:
        for name in ("one", "two"):
            ip.link("del", index=ip.link_lookup(ifname=name)[0])
    assert look(node, closing, Where(netns=str(node[1]))) is None, "nothing leads there yet"
    assert not closing.closed


def test_an_interface_that_is_not_closed_is_named(node: list[Path]) -> None:
    closing = Closing()
    closing.error = StepFailed("one: attach from_pod", "no room", 1)
    found = look(node, closing, Where(netns=str(node[1])))
    assert found is not None and found.failures == (closing.error,)
    found = look(node, Closing(), Where(netns=str(node[1])))
    assert found is not None and newcomer.finish(closing, found) == (closing.error,)  # type: ignore[arg-type]


def test_what_is_read_for_it_does_not_grow_with_the_others(
    node: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pod of a node brings an interface and an address of it: there may be hundreds."""
    read: list[int] = []
    ask = netlink.ask

    def counting(*question: Any, **more: Any) -> list[bytes]:
        bodies = ask(*question, **more)
        read.append(len(bodies))
        return bodies

    with netns.entered(node[0]), IPRoute() as ip:
        ip.link("add", ifname="br", kind="bridge", address="02:00:00:00:00:01")
        (bridge,) = ip.link_lookup(ifname="br")
        ip.addr("add", index=bridge, address="10.0.0.1", prefixlen=24)
        ip.link("set", index=ip.link_lookup(ifname="one")[0], master=bridge)
    monkeypatch.setattr(netlink, "ask", counting)
    where = Where(netns=str(node[1]))
    alone = look(node, Closing(), where)
    before, read[:] = list(read), []
    with netns.entered(node[0]), IPRoute() as ip:
        for number in range(20):
            ip.link("add", ifname=f"o{number}", kind="veth", peer={"ifname": f"i{number}"})
            (index,) = ip.link_lookup(ifname=f"o{number}")
            ip.addr("add", index=index, address=f"10.1.{number}.1", prefixlen=24)
            ip.link("set", index=index, master=bridge)
    assert before and look(node, Closing(), where) == alone
    assert read == before, f"{sum(before)} rows before, {sum(read)} among twenty others"
