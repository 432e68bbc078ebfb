"""The loaded program and `policy.evaluate` on the same policies: what the program denies, user space denies."""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.enroll.prefilter import sources_of
from agent.model.address import parse_ip
from agent.model.policy import Action, Authorization, Scope
from agent.policy.evaluate import evaluate
from agent.policy.prefilter import TUNNEL_PORT, cells, judged
from redirect import sys_bpf
from redirect.denials import Denial, DenialKey, Prefiltered
from redirect.errors import MapFull
from redirect.layout import MAPS, MARK_PROXY, address_key
from redirect.layout import parse_ip as layout_ip
from redirect.prefilter import PrefilterMaps, Source, denials, prefiltered
from tests.fuzz.test_policy import REFUSED, RULES, TARGETS
from tests.packets.rig import CONTEXT_BYTES, IFINDEX_AT, MARK_AT, Rig
from tests.packets.world import FAMILIES, FORWARDED, REDIRECT, V4, World
from tests.support import packets as pk
from tests.support.mesh import connection, identity, refusing, snapshot

pytestmark = pytest.mark.kernel
POLICIES = st.builds(
    Authorization,
    st.sampled_from(["p0", "p1", "p2"]),
    st.just("apps"),
    st.just(Scope.GLOBAL),
    st.sampled_from(Action),
    st.lists(RULES, max_size=2).map(tuple),
    st.booleans(),
)
SOURCES = ["10.0.0.9", "10.0.0.1", "192.0.2.1", "fd00::9", "fd01::9"]
PODS = {4: V4.pod, 6: FAMILIES[1].pod}
NEVER_NS = 3600 * 10**9
UPDATE_BATCH, DELETE_BATCH = 26, 27
ENOTSUPP = 524
"""Of the kernel alone; errno has none."""


def is_denied(rig: Rig, source: str, port: int) -> bool:
    """What is answered leaves with the mark of the proxy."""
    pod = PODS[layout_ip(source).version]
    context = bytearray(CONTEXT_BYTES)
    struct.pack_into("=I", context, rig.ingress_at, FORWARDED)
    struct.pack_into("=I", context, IFINDEX_AT, rig.ifindex)
    ran = sys_bpf.prog_test_run(rig.programs["to_pod"], pk.segment(source, 40000, pod, port), bytes(context))
    assert ran.verdict == REDIRECT
    (mark,) = struct.unpack_from("=I", ran.context, MARK_AT)
    assert mark in (0, MARK_PROXY)
    return bool(mark)


def link(rig: Rig, number: int) -> None:
    """With no samples left."""
    value = Prefiltered(rig.ifindex, number, time.monotonic_ns() + NEVER_NS).encode()
    for pod in PODS.values():
        sys_bpf.map_update(rig.maps["prefiltered"], address_key(layout_ip(pod)), value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(POLICIES, max_size=3), TARGETS, REFUSED)
def test_what_the_program_denies_user_space_denies(rig: Rig, policies, target, refused) -> None:
    """And in plaintext the program denies all of it."""
    snap = refusing(snapshot(*policies), **refused)
    made = {pod: cells(judged(snap.policies_for(target), parse_ip(pod))) for pod in PODS.values()}
    maps = PrefilterMaps(rig.pins)
    try:
        with rig.world(World()):
            for pod, found in made.items():
                assert found is not None
                number = maps.put_set(sources_of(found))
                value = Prefiltered(rig.ifindex, number, time.monotonic_ns() + NEVER_NS).encode()
                sys_bpf.map_update(rig.maps["prefiltered"], address_key(layout_ip(pod)), value)
            for source in SOURCES:
                pod = PODS[layout_ip(source).version]
                client = f"[{source}]:1" if ":" in source else f"{source}:1"
                for port in (80, 8080, 443):
                    to = f"[{pod}]:{port}" if ":" in pod else f"{pod}:{port}"
                    decision = evaluate(connection(client, to, None), target, snap)
                    assert is_denied(rig, source, port) is not decision.allowed
                if is_denied(rig, source, TUNNEL_PORT):
                    for who in (identity("web", "apps"), identity("api", "shop")):
                        for to in ("10.0.0.1:80", "10.0.0.1:8080", "[fd00::1]:443", f"{PODS[4]}:15008"):
                            assert not evaluate(connection(client, to, who), target, snap).allowed
            maps.clear()
            assert not denials(rig.maps["denials"]) and not prefiltered(rig.maps["prefiltered"])
    finally:
        maps.close()


def test_ten_a_second_go_to_the_proxy_and_so_many_at_once(rig: Rig) -> None:
    maps = PrefilterMaps(rig.pins)
    try:
        with rig.world(World()):
            number = maps.put_set([Source(0, ip_network("0.0.0.0/0"), True)])
            maps.link(layout_ip(V4.pod), rig.ifindex, number)
            began_ns = time.monotonic_ns()
            answers = [is_denied(rig, V4.peer, 80) for _ in range(200)]
            took_ns = time.monotonic_ns() - began_ns
            passed = answers.count(False)
            assert 64 <= passed <= 64 + took_ns // 100_000_000 + 1
            assert answers[:64] == [False] * 64
            entry = (number, Source(0, ip_network("0.0.0.0/0"), True))
            assert list(maps.packets([entry])) == [(*entry, 200 - passed)]
            maps.unlink(layout_ip(V4.pod))
            assert not is_denied(rig, V4.peer, 80)
    finally:
        maps.close()


def test_a_set_changes_hands_whole_and_the_old_one_goes(rig: Rig) -> None:
    maps = PrefilterMaps(rig.pins)
    every, near = ip_network("0.0.0.0/0"), ip_network("10.88.0.0/16")
    try:
        with rig.world(World()):
            old = [Source(0, every, True), Source(80, every, False)]
            first = maps.put_set(old)
            link(rig, first)
            assert (is_denied(rig, V4.peer, 80), is_denied(rig, V4.peer, 81)) == (False, True)
            second = maps.put_set([Source(0, near, True)])
            assert (is_denied(rig, V4.peer, 80), is_denied(rig, "192.0.2.1", 81)) == (False, True)
            link(rig, second)
            assert (is_denied(rig, V4.peer, 80), is_denied(rig, "192.0.2.1", 81)) == (True, False)
            maps.drop_set(first, old)
            assert {key.set for key in denials(rig.maps["denials"])} == {second}
            assert DenialKey.of(second, 0, near) in denials(rig.maps["denials"])
            assert not is_denied(rig, V4.peer, TUNNEL_PORT)
    finally:
        maps.close()


WHOLE, NEAR, NEARER = (ip_network(text) for text in ("0.0.0.0/0", "10.88.0.0/16", "10.88.1.0/24"))
CHANGES: dict[str, tuple[Callable[[Rig, int], object], str]] = {
    "nothing": (lambda rig, number: None, ""),
    "a link is gone": (
        lambda rig, number: sys_bpf.map_delete(rig.maps["prefiltered"], address_key(layout_ip(V4.pod))),
        f"prefiltered: {V4.pod} is missing in place of set ",
    ),
    "a link leads elsewhere": (
        lambda rig, number: put_link(rig, V4.pod, number + 5),
        f"prefiltered: {V4.pod} has set ",
    ),
    "a link of others": (
        lambda rig, number: put_link(rig, V4.peer, number),
        f"prefiltered has {V4.peer}, which is not judged by programs",
    ),
    "a denial is gone": (
        lambda rig, number: drop_entry(rig, number, WHOLE),
        "0.0.0.0/0 is missing in place of denied",
    ),
    "an exception is gone": (
        lambda rig, number: drop_entry(rig, number, NEAR),
        "10.88.0.0/16 is missing in place of left alone",
    ),
    "an exception is a denial": (
        lambda rig, number: put_entry(rig, number, NEAR, is_denied=True),
        "10.88.0.0/16 is denied in place of left alone",
    ),
    "a denial of others": (
        lambda rig, number: put_entry(rig, number, NEARER, is_denied=True),
        "10.88.1.0/24 is not of the agent",
    ),
    "a set of others": (
        lambda rig, number: put_entry(rig, number + 9, WHOLE, is_denied=True),
        "0.0.0.0/0 is not of the agent",
    ),
}


def put_link(rig: Rig, address: str, number: int) -> None:
    value = Prefiltered(rig.ifindex, number).encode()
    sys_bpf.map_update(rig.maps["prefiltered"], address_key(layout_ip(address)), value)


def put_entry(rig: Rig, number: int, sources: IPv4Network, *, is_denied: bool) -> None:
    key = DenialKey.of(number, 0, sources).encode()
    sys_bpf.map_update(rig.maps["denials"], key, Denial(is_denied).encode())


def drop_entry(rig: Rig, number: int, sources: IPv4Network) -> None:
    assert sys_bpf.map_delete(rig.maps["denials"], DenialKey.of(number, 0, sources).encode())


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_else_changes_is_told_and_made_as_it_was(rig: Rig, change: str) -> None:
    maps = PrefilterMaps(rig.pins)
    break_it, words = CHANGES[change]
    sources = [Source(0, WHOLE, True), Source(0, NEAR, False)]
    try:
        with rig.world(World()):
            number = maps.put_set(sources)
            maps.link(layout_ip(V4.pod), rig.ifindex, number)
            before = prefiltered(rig.maps["prefiltered"]), denials(rig.maps["denials"])
            assert maps.drift() == []
            break_it(rig, number)
            told = maps.drift()
            assert [each for each in told if words not in each] == [] and len(told) == bool(words)
            assert maps.mend() == told and maps.drift() == []
            assert (prefiltered(rig.maps["prefiltered"]), denials(rig.maps["denials"])) == before
            maps.unlink(layout_ip(V4.pod))
            maps.drop_set(number, sources)
            assert maps.drift() == [] and not denials(rig.maps["denials"])
    finally:
        maps.close()


def batch(rig: Rig, command: int, keys: bytes, count: int) -> None:
    """BPF_MAP_UPDATE_BATCH or BPF_MAP_DELETE_BATCH of `denials`: many one by one would take long."""
    key_buffer, values = ctypes.create_string_buffer(keys), ctypes.create_string_buffer(count * 16)
    pointers = ctypes.addressof(key_buffer), ctypes.addressof(values) if command == UPDATE_BATCH else 0
    sys_bpf.call(command, struct.pack("=QQQQIIQQ", 0, 0, *pointers, count, rig.maps["denials"], 0, 0))


def test_a_set_that_has_no_room_leaves_nothing_behind(rig: Rig) -> None:
    maps = PrefilterMaps(rig.pins)
    count = MAPS["denials"].max_entries - 1
    keys = b"".join(DenialKey.of(9, 0, ip_network((n << 8, 24))).encode() for n in range(count))
    try:
        try:
            batch(rig, UPDATE_BATCH, keys, count)
        except OSError as error:
            if error.errno != ENOTSUPP:
                raise
            pytest.skip("a trie takes no batches (BPF_MAP_UPDATE_BATCH; Linux 5.13)")
        with pytest.raises(MapFull, match="denials"):
            maps.put_set([Source(0, ip_network((n, 32)), True) for n in range(3)])
        assert {key.set for key in denials(rig.maps["denials"])} == {9}
    finally:
        if denials(rig.maps["denials"]):
            batch(rig, DELETE_BATCH, keys, count)
        maps.close()
    assert not denials(rig.maps["denials"])


def test_entries_come_back_as_they_were() -> None:
    for text in ("0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "fd00::/64", "fd00::1/128"):
        key = DenialKey.of(7, 80, ip_network(text))
        assert DenialKey.decode(key.encode()) == key and str(key.sources) == text
    assert Denial.decode(Denial(True, 5).encode()) == Denial(True, 5)
