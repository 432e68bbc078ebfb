"""Network namespaces that another process has handed to this one as descriptors, each held open once.

A number that the kernel gives to a descriptor is given again when it is closed, so a namespace is known here by its
own identity, and whoever opens one looks whether it is that one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection
from pathlib import Path

from redirect import netns
from redirect.netns import NamespaceId

NS_GET_NSTYPE = 0xB703
"""include/uapi/linux/nsfs.h; what it answers is one of the CLONE_NEW* flags."""


class NotHanded(Exception):
    """What was handed over is not the network namespace of a pod; the text says what it is."""


class HandedNamespaces:
    """Owns the descriptors."""

    def __init__(self) -> None:
        self._fds: dict[NamespaceId, int] = {}

    def take(self, fd: int) -> NamespaceId:
        """Own a descriptor; which namespace it leads to. Blocking. Raises NotHanded, OSError: then it is closed."""
        try:
            _check(fd)
            with netns.entered(Path(f"/proc/self/fd/{fd}")):
                namespace = netns.own_id()
        except BaseException:
            os.close(fd)
            raise
        if self._fds.setdefault(namespace, fd) != fd:
            os.close(fd)
        return namespace

    def path(self, namespace: NamespaceId) -> Path | None:
        """Leads there for as long as it is held; whoever opens it later must look where it leads."""
        fd = self._fds.get(namespace)
        return None if fd is None else Path(f"/proc/self/fd/{fd}")

    def keep_only(self, wanted: Collection[NamespaceId]) -> None:
        for namespace in self._fds.keys() - wanted:
            os.close(self._fds.pop(namespace))

    def close(self) -> None:
        self.keep_only(())

    def __len__(self) -> int:
        return len(self._fds)


def _check(fd: int) -> None:
    found, own = os.fstat(fd), netns.OWN.stat()
    if found.st_dev != own.st_dev:
        raise NotHanded("the descriptor leads to no namespace")
    if fcntl.ioctl(fd, NS_GET_NSTYPE) != netns.CLONE_NEWNET:
        raise NotHanded("the descriptor leads to a namespace of another kind than network")
    if found.st_ino == own.st_ino:
        raise NotHanded(
            "the descriptor leads to the node's own network namespace: a pod with hostNetwork cannot be captured"
        )
