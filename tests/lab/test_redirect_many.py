"""Many pods on one node: what one takes does not grow with the others, and whatever is taken away is made again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from redirect import host_addresses, netns, sys_bpf
from redirect.desired import Desired
from redirect.findings import Finding, Part
from redirect.layout import Flag
from redirect.locate import locate
from redirect.place import Place
from redirect.reconcile import Redirection
from tests.bench.pods import node

pytestmark = pytest.mark.kernel

FEW, MORE, CROWD = 3, 12, 200


@dataclass(frozen=True, slots=True)
class Crowd:
    """A node of its own with pods, the thread in its namespace; nobody listens."""

    redirection: Redirection
    places: list[Place]

    def desired(self, count: int | None = None) -> Desired:
        return Desired(tuple(place.desired() for place in self.places[:count]), host_addresses.local())

    def prove(self) -> list[Finding]:
        return [found for found in self.redirection.prove(self.desired()) if found.part is not Part.LISTENER]


@contextmanager
def crowd(directory: Path, count: int, *, has_bridge: bool = False) -> Iterator[Crowd]:
    name = f"hmany{os.getpid()}"
    with node(name, count, has_bridge=has_bridge) as (place, pods), netns.entered(place):
        redirection = Redirection(name, directory)
        redirection.prepare()
        try:
            places = [locate(netns=path) for path in pods]
            assert not [each.refusal for each in places if each.refusal]
            yield Crowd(redirection, places)
        finally:
            redirection.uninstall()
            redirection.close()


def calls(work: Callable[[], object]) -> int:
    """How many functions are called, of Python and of C: what is done, whatever else the machine does."""
    count = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_one_pod_takes_no_more_where_there_are_many(tmp_path: Path) -> None:
    # On a bridge: there its neighbours are looked for in its namespace too.
    with crowd(tmp_path, MORE, has_bridge=True) as made:
        apply = made.redirection.apply

        def captured(count: int) -> int:
            wanted = made.desired(count)
            return calls(lambda: apply(wanted, only=[wanted.pods[-1].ifindex]))

        def treated(count: int) -> int:
            wanted = made.desired(count)
            *others, last = wanted.pods
            changed = replace(wanted, pods=(*others, replace(last, flags=Flag.ENROLLED | Flag.HONEST)))
            return calls(lambda: apply(changed, only=[last.ifindex]))

        apply(made.desired(FEW - 1))
        few = [captured(FEW), treated(FEW)]
        apply(made.desired(MORE - 1))
        more = [captured(MORE), treated(MORE)]
        apply(made.desired())
        assert not made.prove()
        # What is wanted of the others is looked through for addresses that are theirs: three calls each.
        assert max(b - a for a, b in zip(few, more, strict=True)) < 5 * (MORE - FEW), (few, more)


def detach(redirection: Redirection, program: str) -> None:
    for path in redirection.pins.links.glob(f"*-{program}"):
        fd = sys_bpf.obj_get(path)
        sys_bpf.link_detach(fd)
        os.close(fd)


def empty(redirection: Redirection, name: str) -> None:
    fd = redirection._maps.fds[name]
    for key in list(sys_bpf.map_keys(fd, sys_bpf.map_info(fd).key_size)):
        sys_bpf.map_delete(fd, key)


def unpin(redirection: Redirection) -> None:
    for path in redirection.pins.links.glob("*-*"):
        path.unlink()


FAULTS: dict[str, tuple[Callable[[Redirection], object], Part]] = {
    "from_pod of all": (lambda redirection: detach(redirection, "from_pod"), Part.PROGRAM),
    "to_pod of all": (lambda redirection: detach(redirection, "to_pod"), Part.PROGRAM),
    "every interface's entry": (lambda redirection: empty(redirection, "ifaces"), Part.ENTRY),
    "every address": (lambda redirection: empty(redirection, "pods"), Part.ENTRY),
    "the node's addresses": (lambda redirection: empty(redirection, "hostips"), Part.ENTRY),
    "every pin of a link": (unpin, Part.PIN),
}


@pytest.mark.long
def test_whatever_is_taken_from_a_crowd_is_found_by_the_next_proof_and_made_again(tmp_path: Path) -> None:
    with crowd(tmp_path, CROWD) as made:
        made.redirection.apply(made.desired())
        assert not made.prove()
        for what, (break_it, part) in FAULTS.items():
            break_it(made.redirection)
            found = [each for each in made.prove() if each.part is part]
            assert len(found) >= (1 if what == "the node's addresses" else CROWD), what
            assert all(each.is_mendable for each in found), what
            made.redirection.apply(made.desired())
            assert not made.prove(), what
