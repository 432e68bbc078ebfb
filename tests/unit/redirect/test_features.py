"""A kernel that lacks something is told what it is, and what to do; this one has all of it."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from redirect.errors import KernelTooOld
from redirect.features import Features, probe

ALL = Features(
    has_bpf=True, has_sk_lookup=True, has_tcx=True, has_ipv6=True, has_inet_diag=True, has_sock_destroy=True
)


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


def test_what_can_be_done_without_is_no_obstacle() -> None:
    less = replace(ALL, has_tcx=False, has_sock_destroy=False)
    less.require()
    assert ALL.limits == ()
    assert [limit for limit in less.limits if "CONFIG_INET_DIAG_DESTROY" in limit]


@pytest.mark.skipif(os.geteuid() != 0, reason="asks what only root may ask")
def test_this_kernel_has_what_is_necessary() -> None:
    probe().require()
