"""Puts ztun-cni and its configuration onto a node, keeps both there, and takes them off again.

The binary first, then the configuration: a runtime that finds a plugin it does not have fails every pod. Off again in
the other order. Every file is replaced whole, by a rename, with the mode that it had. Other CNIs rewrite their files
when they please: `keep` looks several times a second, and puts right what differs.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.cni import ztun_cni
from agent.cni.conflist import (
    OWN_NAME,
    PLUGIN_TYPE,
    SUFFIXES,
    NoConfiguration,
    chained,
    first,
    is_chained,
    unchained,
)
from agent.whole_file import write_whole

log = logging.getLogger(__name__)

SIZE_LIMIT_BYTES = 1 << 20
_DRAFT = ".ztun-draft"


@dataclass(slots=True)
class Installation:
    """`plugin`: the keys of our entry. `is_own_file`: a copy of the configuration in a file of ours, before all others.

    `problem`: why it is not as it should be; empty when it is.
    """

    bin_dir: Path
    conf_dir: Path
    plugin: Mapping[str, Any]
    is_own_file: bool = False
    source: Path = field(default_factory=lambda: Path(ztun_cni.__file__))
    problem: str = ""
    _seen: object = None
    _passed_over: dict[str, str] = field(default_factory=dict)

    @property
    def binary(self) -> Path:
        return self.bin_dir / PLUGIN_TYPE

    def keep(self) -> list[str]:
        """What had to be done so that everything is as it should be. Nothing is read where nothing has changed."""
        stamp = self._stamp()
        if stamp == self._seen and not self.problem:
            return []
        try:
            done = self.install()
        except (OSError, NoConfiguration) as error:
            problem = f"pods cannot be captured before their first packet: {error}"
            if problem != self.problem:
                log.error("%s", problem)
            self.problem = problem
            self._seen = None
            return []
        for line in done:
            log.info("%s", line)
        self.problem = ""
        # The stamp from before the look: one taken now would vouch for what another has written right behind us.
        self._seen = None if done else stamp
        return done

    def install(self) -> list[str]:
        """Raises OSError, NoConfiguration."""
        done = []
        wanted = self.source.read_bytes()
        if (
            not self.binary.is_file()
            or self.binary.read_bytes() != wanted
            or not os.access(self.binary, os.X_OK)
        ):
            replace_file(self.binary, wanted, 0o755)
            done.append(f"copied {self.binary}")
        files = self._files()
        name, broken = first(files, [OWN_NAME] if self.is_own_file else [])
        for other, reason in broken.items():
            if self._passed_over.get(other) != reason:
                log.warning("%s is passed over: %s", self.conf_dir / other, reason)
        self._passed_over = broken
        if not name:
            raise NoConfiguration(
                f"{self.conf_dir} has no network configuration yet: is the cluster's CNI installed?"
            )
        text = chained(files[name], self.plugin)
        target = self.conf_dir / (OWN_NAME if self.is_own_file else _as_list(name))
        if files.get(target.name) != text:
            replace_file(target, text.encode(), _mode(self.conf_dir / name))
            done.append(f"chained {PLUGIN_TYPE} in {target}")
        if target.name != name and not self.is_own_file:
            (self.conf_dir / name).unlink()
            done.append(f"removed {self.conf_dir / name}, which is now {target.name}")
        return done

    def uninstall(self) -> list[str]:
        """Raises OSError."""
        done = []
        files = self._files() if self.conf_dir.is_dir() else {}
        for name, text in sorted(files.items()):
            path = self.conf_dir / name
            if name == OWN_NAME:
                path.unlink()
                done.append(f"removed {path}")
            elif is_chained(text):
                rest = unchained(text)
                if rest:
                    replace_file(path, rest.encode(), _mode(path))
                else:
                    path.unlink()
                done.append(f"took {PLUGIN_TYPE} out of {path}")
        if self.binary.exists():
            self.binary.unlink()
            done.append(f"removed {self.binary}")
        return done

    def _files(self) -> dict[str, str]:
        found = {}
        for path in self.conf_dir.iterdir():
            if path.name.endswith(SUFFIXES) and path.is_file() and path.stat().st_size <= SIZE_LIMIT_BYTES:
                found[path.name] = path.read_text(errors="replace")
        return found

    def _stamp(self) -> object:
        """What changes whenever a file of concern does."""
        rows = []
        for directory in (self.conf_dir, self.bin_dir):
            try:
                with os.scandir(directory) as entries:
                    rows += [
                        _row(each)
                        for each in entries
                        if directory == self.conf_dir or each.name == PLUGIN_TYPE
                    ]
            except FileNotFoundError:
                rows.append((str(directory), 0, 0, 0, 0))
        return sorted(rows)


def _row(entry: os.DirEntry[str]) -> tuple[str, int, int, int, int]:
    try:
        found = entry.stat()
    except FileNotFoundError:
        return entry.name, 0, 0, 0, 0
    return entry.name, found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all. A draft that a crash leaves is replaced by the next: they do not pile up on the host."""
    write_whole(path, content, mode, path.with_name(path.name + _DRAFT))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _as_list(name: str) -> str:
    """What holds a list of plugins must be called so: runtimes read `.conf` as one plugin."""
    return name.removesuffix(".conf") + ".conflist" if name.endswith(".conf") else name
