"""A kernel that lacks something is told what it is, and what to do; this one has all of it."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from redirect import filters, map_memory, migration, netns, rights, sides, sys_bpf
from redirect.errors import KernelTooOld, NotRoot, StepFailed
from redirect.features import LIMITS, Features, probe
from redirect.side import Side

ALL = Features(
    has_bpf=True,
    has_map_memory=True,
    has_sk_lookup=True,
    has_tcx=True,
    has_ipv6=True,
    has_inet_diag=True,
    has_sock_destroy=True,
    moves_queues=True,
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="asks what only root may ask")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("has_bpf", "CONFIG_BPF_SYSCALL"),
        ("has_sk_lookup", "Linux 5.10"),
        ("has_ipv6", "without ipv6.disable=1"),
        ("has_inet_diag", "modprobe tcp_diag"),
    ],
)
def test_what_is_necessary_is_named_when_it_is_missing(missing: str, words: str) -> None:
    ALL.require()
    with pytest.raises(KernelTooOld, match=words):
        replace(ALL, **{missing: False}).require()


def test_a_process_that_may_make_no_map_is_told_what_it_needs() -> None:
    with pytest.raises(NotRoot, match="CAP_SYS_RESOURCE"):
        replace(ALL, has_map_memory=False).require()


def test_what_can_be_done_without_is_no_obstacle_and_said() -> None:
    less = replace(ALL, **dict.fromkeys(LIMITS, False))
    less.require()
    assert ALL.limits == ()
    assert less.limits == tuple(LIMITS.values())
    (limit,) = replace(ALL, has_sock_destroy=False).limits
    assert "CONFIG_INET_DIAG_DESTROY" in limit


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ((12,), "CAP_NET_ADMIN"),
        ((21, 39), "CAP_SYS_ADMIN, CAP_BPF"),
        ((13, 21), "CAP_NET_RAW, CAP_SYS_ADMIN"),
    ],
)
def test_root_without_a_right_is_told_which(
    monkeypatch: pytest.MonkeyPatch, without: tuple[int, ...], named: str
) -> None:
    every = (1 << 41) - 1
    monkeypatch.setattr(rights.os, "geteuid", lambda: 0)
    monkeypatch.setattr(rights, "effective", lambda: every & ~sum(1 << bit for bit in without))
    with pytest.raises(NotRoot, match=f"without {named}: give it those"):
        rights.require()
    monkeypatch.setattr(rights, "effective", lambda: every & ~(1 << rights.BPF))
    rights.require()  # CAP_SYS_ADMIN is there


def test_a_kernel_without_veth_or_without_filters_is_told_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their absence shows when one is made, as EOPNOTSUPP and ENOENT (6.1, booted without)."""

    def without(code: int) -> Callable[..., None]:
        def refused(*_: object) -> None:
            raise OSError(code, "netlink: it has none")

        return refused

    monkeypatch.setattr(sides.rt_writes, "add_veth", without(errno.EOPNOTSUPP))
    with pytest.raises(KernelTooOld, match="modprobe veth"):
        sides._add_veth(Side("namespace", "dev"), -1)
    with (
        pytest.raises(StepFailed, match=r"attach it: .*modprobe -a sch_ingress cls_bpf"),
        filters._named("attach it"),
    ):
        without(errno.ENOENT)()


@as_root
def test_no_room_for_a_namespace_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "unshare: No space left on device")

    monkeypatch.setattr(migration.netns, "call", full)
    with pytest.raises(OSError, match="raise /proc/sys/user/max_net_namespaces"):
        migration.moves_queues()


@as_root
def test_this_kernel_has_what_is_necessary() -> None:
    probe().require()


# -- asked by doing


@as_root
def test_a_queue_moves_where_the_setting_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it this kernel is one that has the setting and nothing behind it, as Linux 5.10 is."""
    here = netns.inode()
    assert migration.moves_queues()
    monkeypatch.setattr(migration.sides, "write_sysctls", lambda _: None)
    assert not migration.moves_queues()
    assert netns.inode() == here


def test_without_the_setting_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(migration.sides, "SYSCTLS", str(tmp_path))
    monkeypatch.setattr(migration.netns, "call", lambda *_: pytest.fail("a namespace was made"))
    assert not migration.moves_queues()


@as_root
def test_where_maps_count_against_no_limit_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this kernel; a map larger than the limit is made for it, and let go."""
    monkeypatch.setattr(map_memory.resource, "getrlimit", lambda _: (65536, 65536))
    monkeypatch.setattr(map_memory.resource, "setrlimit", lambda *_: pytest.fail("the limit was changed"))
    assert map_memory.ensure()


@pytest.mark.parametrize("may_raise", [True, False])
def test_where_they_count_the_limit_is_raised_by_who_may(
    monkeypatch: pytest.MonkeyPatch, may_raise: bool
) -> None:
    """Linux 5.10 refuses a map past the limit with EPERM, whoever makes it."""
    asked: list[object] = []

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def change(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        if not may_raise:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(sys_bpf, "map_create", refuse)
    monkeypatch.setattr(map_memory.resource, "getrlimit", lambda _: (65536, 65536))
    monkeypatch.setattr(map_memory.resource, "setrlimit", change)
    assert map_memory.ensure() is may_raise
    assert asked == [(resource.RLIM_INFINITY, resource.RLIM_INFINITY)]
