"""The links of an instance: tcx on devices, sk_lookup in the private namespaces. Each is held open and pinned.

A link is known by its pin's name, `IFINDEX-PROGRAM` or the program alone for a socket lookup, and is updated in
place, so that there is never a gap. Which link belongs where is decided by who calls.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from redirect import sys_bpf
from redirect.kept_pins import SPARE, KeptPins
from redirect.pins import Pins


class Links:
    """Every link that this process made or found pinned. Close it: only the pins hold them then."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._kept = KeptPins(lambda: pins.links)
        self._held: dict[str, int] = {}
        self._ids: dict[str, int] = {}
        """The kernel's number of each that is held: no other link gets it while this one lives."""

    def ensure(self, name: str, prog_fd: int, target: int, kind: int, flags: int = 0) -> None:
        """Has a program run at a place, in place of what this link ran; a new link where there is none.

        `target` and `kind` as in `sys_bpf.link_create`. Raises OSError; a link that cannot be pinned is attached
        and held all the same.
        """
        self._clear_spare(name)
        if self._has(name) and not self._update(name, prog_fd):
            # The device or namespace of the link is gone and its number may be another's by now.
            self._drop(name)
        if name not in self._held:
            # bpftool net attach tcx_ingress PROG dev DEV; BEFORE with relative 0: ahead of everybody else's
            self._hold(name, sys_bpf.link_create(prog_fd, target, kind, flags))
        self._kept.keep(name, self._held[name])

    def move_ahead(self, name: str, prog_fd: int, target: int, kind: int) -> None:
        """Has the program of a link of a device run before all others there. Raises OSError; then it is as it was.

        The kernel moves no program, and runs none twice at one place. So the old link drops what comes to it until
        there is a new one, and at every moment one of the two, pinned, lets nothing past.
        """
        self._clear_spare(name)
        drop_fd = sys_bpf.load_verdict("ztun_drop", sys_bpf.TC_ACT_SHOT)
        try:
            if not self._has(name) or not self._update(name, drop_fd):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        finally:
            os.close(drop_fd)
        old = self._held[name]
        try:
            new = sys_bpf.link_create(prog_fd, target, kind, sys_bpf.BPF_F_BEFORE)
            try:
                self._kept.supplant(name, new)
            except OSError:
                sys_bpf.link_detach(new)
                os.close(new)
                self._clear_spare(name)
                raise
        except OSError:
            sys_bpf.link_update(old, prog_fd)
            raise
        self._hold(name, new)
        sys_bpf.link_detach(old)
        os.close(old)

    def has(self, name: str) -> bool:
        """Whether there is a link of that name, whatever it runs."""
        return self._has(name)

    def remove(self, name: str) -> None:
        """`bpftool link detach`: at once, whoever else holds the link. One that is not there is nothing to do."""
        if self._has(name):
            try:
                sys_bpf.link_detach(self._held[name])
            except OSError as error:
                if error.errno != errno.ENOLINK:
                    raise
            self._drop(name)

    def info(self, name: str) -> sys_bpf.LinkInfo | None:
        """What the kernel says of a link; None when there is none of that name."""
        return sys_bpf.link_info(self._held[name]) if self._has(name) else None

    def ids(self) -> Mapping[str, int]:
        """The kernel's number of every link, by name."""
        if self._pins.links.is_dir():
            with os.scandir(self._pins.links) as entries:
                # Of hundreds all but those of another process are known.
                for entry in [each for each in entries if each.name not in self._held]:
                    if not entry.is_dir() and not entry.name.endswith(SPARE):
                        self._has(entry.name)
        return dict(self._ids)

    def lost_pins(self) -> list[str]:
        """Names of links without a pin of theirs."""
        return self._kept.lost(self._held)

    def restore_pins(self) -> list[str]:
        """Pins again what lost its pin; the names. Raises OSError."""
        return self._kept.restore(self._held)

    def close(self) -> None:
        self._ids.clear()
        while self._held:
            os.close(self._held.popitem()[1])

    def _has(self, name: str) -> bool:
        """Whether there is such a link; one that another process left pinned is held from now on."""
        if name in self._held:
            return True
        path = self._pins.links / name
        if not path.exists():
            return False
        self._hold(name, sys_bpf.obj_get(path))
        self._kept.found(name)
        return True

    def _hold(self, name: str, fd: int) -> None:
        self._held[name] = fd
        _, self._ids[name] = sys_bpf.object_id(fd)

    def _clear_spare(self, name: str) -> None:
        """A crash while a link was moved left the new one, whose program cannot run there a second time."""
        path = self._pins.links / f"{name}{SPARE}"
        if path.exists():
            fd = sys_bpf.obj_get(path)
            try:
                sys_bpf.link_detach(fd)
            except OSError as error:
                if error.errno != errno.ENOLINK:
                    raise
            finally:
                os.close(fd)
            path.unlink()

    def _update(self, name: str, prog_fd: int) -> bool:
        """LINK_UPDATE swaps atomically: no packet meets neither program. False: what it was attached to is gone."""
        try:
            sys_bpf.link_update(self._held[name], prog_fd)
        except OSError as error:
            if error.errno != errno.ENOLINK:
                raise
            return False
        return True

    def _drop(self, name: str) -> None:
        self._kept.remove(name)
        del self._ids[name]
        os.close(self._held.pop(name))
