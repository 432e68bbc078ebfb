"""Keeps the wishes in a file of the run directory, so that they outlive the agent. No keys in it.

Written whole or not at all. What holds for one boot only (processes, namespaces) is dropped when it is read after
another: a pod that is named by its path or its interface is looked for again, one that is named by a process or by the
namespace itself is not.

A file that cannot be understood is damaged: it can be put aside, so that the agent starts without it. One of a newer
format is whole, and a newer ztun will want it: that is an error, and the file stays.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.enroll.treatment import Asked
from agent.enroll.wish import Binding, PodInstance, PodKey, WantedBy, Where, Wish
from agent.model.address import parse_ip
from agent.whole_file import write_whole
from redirect.netns import NamespaceId

NAME = "wishes.json"
ASIDE = ("wishes.damaged", "wishes.damaged.1", "wishes.damaged.2")
"""Where damaged ones lie, the newest first; with one more the oldest is gone."""
VERSION = 3
READABLE = (1, 2, VERSION)
"""Version 1 knew neither uids nor pods that are found by what Kubernetes knows; 2 none that were handed over."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


KINDS = {"netns": str, "ifname": str, "pid": int, "started": int}


class WishesDamaged(OSError):
    """The file cannot be understood; the text says why."""


class WishesNewer(OSError):
    """The file is of a ztun after this one; the text says what to do."""


class WishFile:
    """The wishes of one instance on disk."""

    def __init__(self, directory: Path, boot_id: Path = BOOT_ID) -> None:
        self._path = directory / NAME
        self._aside = tuple(directory / name for name in ASIDE)
        self._boot_id = boot_id.read_text().strip()
        self._written: dict[PodKey, tuple[Wish, str]] = {}
        """Each wish as it is in the file: of hundreds one changes at a time, and the pod's start waits for it."""
        self._is_known = False
        self._left: tuple[int, ...] = ()
        """By what the file is known as it was read or written last; empty: there was none."""

    @property
    def is_as_left(self) -> bool:
        """Whether nobody else has written or removed the file since it was read or written here."""
        return not self._is_known or self._look() == self._left

    def load(self) -> dict[PodKey, Wish]:
        """Raises WishesDamaged, WishesNewer, or OSError for a file that cannot be read."""
        # Before it is read: what is written meanwhile is then seen as another's.
        left = self._look()
        wishes = self._load()
        self._is_known, self._left = True, left
        return wishes

    def put_aside(self) -> Path:
        """Have the file out of the way, and kept beside those that were put aside before; where. Raises OSError."""
        free = next((n for n, path in enumerate(self._aside) if not path.exists()), len(self._aside) - 1)
        _remove(self._aside[free])
        for number in range(free, 0, -1):
            self._aside[number - 1].replace(self._aside[number])
        newest = self._path.replace(self._aside[0])
        self._is_known, self._left = True, ()
        return newest

    @property
    def aside(self) -> tuple[Path, ...]:
        """Where damaged files lie, of whichever agents they were, the newest first."""
        return tuple(path for path in self._aside if path.exists())

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _load(self) -> dict[PodKey, Wish]:
        try:
            raw = json.loads(self._path.read_text())
            version = raw["version"]
            if type(version) is int and version > VERSION:
                raise WishesNewer(
                    f"{self._path} is of a newer ztun (its format is {version}, this one reads up to {VERSION}): start "
                    "that one, or move the file away and enrol this node's pods again; those that are captured stay "
                    "closed until then"
                )
            if version not in READABLE:
                raise ValueError(f"version {version} instead of {VERSION}")
            wishes = [_wish(entry) for entry in raw["wishes"]]
            is_same_boot = raw["boot_id"] == self._boot_id
        except FileNotFoundError:
            return {}
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise WishesDamaged(f"{self._path} is damaged ({type(error).__name__}: {error})") from error
        except IsADirectoryError as error:
            raise WishesDamaged(f"{self._path} is damaged (it is a directory)") from error
        if not is_same_boot:
            wishes = [replace(w, namespace=None, bound=None) for w in wishes if not _is_of_this_boot(w.where)]
        return {wish.pod: wish for wish in wishes}

    def save(self, wishes: Iterable[Wish]) -> None:
        """Raises OSError; then the file is as it was."""
        before, self._written = self._written, {}
        for wish in sorted(wishes, key=lambda wish: (wish.pod.namespace, wish.pod.name)):
            known = before.get(wish.pod)
            if known is None or known[0] is not wish:
                known = wish, json.dumps(_entry(wish))
            self._written[wish.pod] = known
        lines = ",\n".join(text for _, text in self._written.values())
        head = json.dumps({"version": VERSION, "boot_id": self._boot_id}).removesuffix("}")
        raw = f'{head}, "wishes": [\n{lines}\n]}}\n'.encode()
        write_whole(self._path, raw, 0o600, self._path.with_suffix(".draft"))
        self._is_known, self._left = True, self._look()


def forget(directory: Path) -> bool:
    """Remove the file of an instance, and damaged ones; whether there was one. Raises OSError."""
    found = [name for name in (NAME, *ASIDE) if _remove(directory / name)]
    return bool(found)


def _remove(path: Path) -> bool:
    """Whether it was there. A record that is a directory is damaged, too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return True
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _entry(wish: Wish) -> dict[str, Any]:
    where = {"netns": wish.where.netns, "pid": wish.where.pid, "ifname": wish.where.ifname}
    entry: dict[str, Any] = {
        "namespace": wish.pod.namespace,
        "name": wish.pod.name,
        "where": {kind: value for kind, value in where.items() if value is not None},
        "wanted_by": wish.wanted_by.value,
        "since": wish.since_s,
    }
    if wish.where.pod is not None:
        addresses = list(map(str, wish.where.pod.addresses))
        entry["where"]["pod"] = {"uid": wish.where.pod.uid, "addresses": addresses}
    if wish.where.handed is not None:
        entry["where"]["handed"] = _id_entry(wish.where.handed)
    if wish.service_account:
        entry["service_account"] = wish.service_account
    if wish.uid:
        entry["uid"] = wish.uid
    if wish.asked.is_honest is not None:
        entry["honest_connect"] = wish.asked.is_honest
    if wish.asked.is_bypassed:
        entry["bypass_inbound"] = True
    if wish.asked.is_dns_captured is not None:
        entry["dns_capture"] = wish.asked.is_dns_captured
    if wish.where.started:
        entry["where"]["started"] = wish.where.started
    if wish.namespace is not None:
        entry["netns"] = _id_entry(wish.namespace)
    if wish.bound is not None:
        entry["bound"] = {
            "netns": _id_entry(wish.bound.namespace),
            "service_account": wish.bound.service_account,
            "trust_domain": wish.bound.trust_domain,
        }
    return entry


def _id_entry(namespace: NamespaceId) -> dict[str, int]:
    return {"inode": namespace.inode, "cookie": namespace.cookie}


def _wish(entry: dict[str, Any]) -> Wish:
    bound = entry.get("bound")
    return Wish(
        PodKey(_text(entry["namespace"]), _text(entry["name"])),
        _where(entry["where"]),
        WantedBy(entry["wanted_by"]),
        _time(entry["since"]),
        _id(entry.get("netns")),
        None
        if bound is None
        else Binding(
            _known(_id(bound["netns"])), _text(bound["service_account"]), _text(bound["trust_domain"])
        ),
        _text(entry.get("uid", "")),
        _text(entry.get("service_account", "")),
        Asked(
            _switch("honest_connect", entry),
            _switch("bypass_inbound", entry) is True,
            _switch("dns_capture", entry),
        ),
    )


def _is_of_this_boot(where: Where) -> bool:
    """Whether it leads nowhere after the next boot."""
    return where.pid is not None or where.handed is not None


def _where(entry: dict[str, Any]) -> Where:
    pod, handed = entry.get("pod"), _id(entry.get("handed"))
    if handed is not None:
        return Where(handed=handed)
    if pod is None:
        for name, value in entry.items():
            if value is not None and type(value) is not KINDS.get(name):
                raise TypeError(f"{name} is {value!r}")
        return Where(**entry)
    return Where(pod=PodInstance(_text(pod["uid"]), tuple(map(parse_ip, pod["addresses"]))))


def _id(entry: dict[str, Any] | None) -> NamespaceId | None:
    return None if entry is None else NamespaceId(int(entry["inode"]), int(entry["cookie"]))


def _time(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is not a time")
    return float(value)


def _switch(name: str, entry: dict[str, Any]) -> bool | None:
    value = entry.get(name)
    if not isinstance(value, bool | None):
        raise TypeError(f"{name} is {value!r}, neither true nor false")
    return value


def _known(namespace: NamespaceId | None) -> NamespaceId:
    if namespace is None:
        raise ValueError("a pod that was served without a namespace")
    return namespace


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
