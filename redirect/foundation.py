"""What captures stand on and no pod changes: both private namespaces, their devices, the programs and lookups there.

Made at the start, looked at again and again, and made again where somebody has taken a part of it away. The
namespaces are held open, so that they outlive their names. Runs in a thread of the node's network namespace; the
caller holds the instance's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from redirect import netns, sides
from redirect.attach import Attachments
from redirect.layout import Conf
from redirect.observe import interfaces

SIDE_PROGRAMS = ("from_pod_side", "from_net_side")
LOOKUPS = ("lookup_pod_side", "lookup_net_side")


class Foundation:
    """That of one instance. Close it; everything stays as it is."""

    def __init__(self, instance: str, attachments: Attachments) -> None:
        """Raises ValueError for a name that cannot be used."""
        self.sides = sides.sides_of(instance)
        self._attachments = attachments
        self._held: list[netns.HeldNamespace] = []

    @property
    def namespaces(self) -> tuple[Path, Path]:
        """Where the sockets of the pod side and of the net side are made."""
        pod_side, net_side = self.sides
        return pod_side.netns, net_side.netns

    def make(self) -> list[sides.SideLink]:
        """Namespaces and devices, or what is missing of them. Raises InstanceInUse, OSError, NetlinkError."""
        self.restore_names()
        for namespace, program in zip(self.namespaces, LOOKUPS, strict=True):
            self._attachments.refuse_unseen(program, namespace)
        made = [sides.prepare(side) for side in self.sides]
        if not self._held:
            self._held = [netns.HeldNamespace(side.namespace) for side in self.sides]
        return made

    def attach(self, links: Sequence[sides.SideLink]) -> None:
        """This generation's programs, on the devices and in the namespaces that `make` found or made."""
        self._attachments.forget_qdiscs(interfaces())
        wanted = {(link.ifindex, program) for link, program in zip(links, SIDE_PROGRAMS, strict=True)}
        for ifindex, program in self._attachments.attached().keys() - wanted:
            if program in SIDE_PROGRAMS:
                # The device was deleted and made again under another number.
                self._attachments.detach(ifindex, program)
        for ifindex, program in sorted(wanted):
            self._attachments.attach(ifindex, program)
        for namespace, program in zip(self.namespaces, LOOKUPS, strict=True):
            self._attachments.attach_lookup(program, namespace)

    def restore_names(self) -> list[str]:
        """Mounts the held namespaces again where their names lead elsewhere or nowhere; the names."""
        return [held.name for held in self._held if held.restore_name()]

    def drift(self, conf: Conf) -> list[str]:
        """What differs from what `make` and `attach` leave, one line each; writes nothing."""
        found = [line for side in self.sides for line in sides.drift(side)]
        links = [sides.find(side) for side in self.sides]
        attached = self._attachments.attached()
        for link, program in zip(links, SIDE_PROGRAMS, strict=True):
            current = self._attachments.program_id(program)
            if link is not None and attached.get((link.ifindex, program)) != current:
                found.append(f"program {program} is not attached to interface {link.ifindex}")
        for namespace, program in zip(self.namespaces, LOOKUPS, strict=True):
            current = self._attachments.program_id(program)
            if namespace.exists() and self._attachments.attached_lookup(program, namespace) != current:
                found.append(f"program {program} is not attached to namespace {namespace.name}")
        pod_side, net_side = links
        if pod_side and net_side and conf != conf_of((pod_side, net_side), conf.is_dns_captured):
            found.append("map conf does not match the devices and namespaces that are there")
        return found

    def remove(self) -> list[str]:
        """The namespaces with everything in them; what was removed."""
        self.close()
        return [f"namespace {side.namespace}" for side in self.sides if sides.remove(side)]

    def close(self) -> None:
        while self._held:
            self._held.pop().close()


def conf_of(links: Sequence[sides.SideLink], is_dns_captured: bool) -> Conf:
    """What the programs are to know of the pod side and of the net side."""
    pod_side, net_side = links
    return Conf(
        pod_side.ifindex,
        net_side.ifindex,
        pod_side.nsid,
        net_side.nsid,
        net_side.inner_mac,
        is_dns_captured,
    )
