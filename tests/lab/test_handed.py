"""Descriptors of network namespaces that are handed over: each is what it says, and none stays open for nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.enroll import search
from agent.enroll.handed import HandedNamespaces, NotHanded
from redirect import netns
from redirect.errors import PodNotFound
from redirect.netns import NamespaceId

pytestmark = pytest.mark.kernel


@pytest.fixture
def pods() -> Iterator[list[Path]]:
    names = [f"hn{os.getpid()}{letter}" for letter in "ab"]
    try:
        yield [netns.create(name) for name in names]
    finally:
        for name in names:
            netns.remove(name)


def opened(path: Path | str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def held() -> int:
    return len(os.listdir("/proc/self/fd"))


def identity(path: Path) -> NamespaceId:
    with netns.entered(path):
        return netns.own_id()


def test_a_namespace_is_held_once_and_let_go_when_nobody_wants_it(pods: list[Path]) -> None:
    before = held()
    handed = HandedNamespaces()
    first, again, second = (handed.take(opened(path)) for path in (pods[0], pods[0], pods[1]))
    assert first == again == identity(pods[0]) and second == identity(pods[1])
    assert (len(handed), held() - before) == (2, 2)
    handed.keep_only({second})
    assert handed.path(first) is None and held() - before == 1
    path = handed.path(second)
    assert path is not None and identity(path) == second
    handed.close()
    assert held() == before


def test_it_lives_on_without_its_name_and_is_found_by_it_without_the_descriptor(pods: list[Path]) -> None:
    handed = HandedNamespaces()
    first, second = (handed.take(opened(path)) for path in pods)
    netns.remove(pods[0].name)
    with search.held_of(first, handed) as path:
        assert identity(path) == first
    handed.close()
    with pytest.raises(PodNotFound, match="is gone, or nothing leads there"), search.held_of(first, handed):
        pass
    with search.held_of(second, handed) as path:
        assert identity(path) == second


def test_a_number_that_was_given_to_another_leads_nowhere(pods: list[Path]) -> None:
    handed = HandedNamespaces()
    first = handed.take(opened(pods[0]))
    number = int(str(handed.path(first)).rpartition("/")[2])
    netns.remove(pods[0].name)
    another = opened(pods[1])
    os.dup2(another, number)
    os.close(another)
    with pytest.raises(PodNotFound), search.held_of(first, handed):
        pass
    handed.close()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/null", "leads to no namespace"),
        ("/proc/self/ns/uts", "of another kind than network"),
        ("/proc/self/ns/net", "the node's own network namespace"),
    ],
)
def test_anything_else_is_refused_and_closed(path: str, reason: str) -> None:
    before = held()
    handed = HandedNamespaces()
    with pytest.raises(NotHanded, match=reason):
        handed.take(opened(path))
    assert held() == before and not len(handed)
