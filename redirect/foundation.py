"""What captures stand on and no pod changes: both private namespaces, their devices, the programs and lookups there.

Made at the start, looked at again and again, and made again where somebody has taken a part of it away. The
namespaces are held open, so that they outlive their names. Runs in a thread of the node's network namespace; the
caller holds the instance's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from redirect import lifetime, netns, rtnetlink, sides
from redirect.attach import Attachments
from redirect.conf import Conf
from redirect.errors import InstanceInUse
from redirect.findings import Finding, Part
from redirect.lifetime import Mounts
from redirect.maps import Maps
from redirect.observe import Observed, interfaces
from redirect.side import Side, sides_of
from redirect.side_check import look

SIDE_PROGRAMS = ("from_pod_side", "from_net_side")
LOOKUPS = ("lookup_pod_side", "lookup_net_side")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found or made. `compiled`: the programs were not there yet; `limits` as of `Features`."""

    compiled: bool
    pod_side: Path
    net_side: Path
    limits: tuple[str, ...]


class Foundation:
    """That of one instance. Close it; everything stays as it is."""

    def __init__(self, instance: str, attachments: Attachments, look: Callable[[], Mounts]) -> None:
        """`look` says what is mounted, here and for good. Raises ValueError for a name that cannot be used."""
        self.sides = sides_of(instance)
        self._attachments = attachments
        self._look = look
        self._held: list[netns.HeldNamespace] = []
        self._by_init = False

    @property
    def namespaces(self) -> tuple[Path, Path]:
        """Where the sockets of the pod side and of the net side are made."""
        pod_side, net_side = self.sides
        return pod_side.netns, net_side.netns

    @property
    def exists(self) -> bool:
        """Whether there is any part of it."""
        devices = {row.ifname for row in rtnetlink.links().values()}
        return any(side.netns.exists() or side.ifname in devices for side in self.sides)

    def claim(self) -> None:
        """Keep every other process from claiming the namespaces, those that are there, until `close`.

        Raises InstanceInUse where another has done so.
        """
        self._hold()
        for held in self._held:
            if not held.claim():
                self.close()
                raise InstanceInUse(
                    f"namespace {held.name} belongs to an agent that runs, with another run directory or with one "
                    "that was removed since: stop that agent, or choose another instance name"
                )

    def make(self, *, is_mending: bool = False) -> list[sides.SideLink]:
        """Namespaces and devices, or what is missing of them; `is_mending`: of what this process made.

        Raises InstanceInUse, WouldNotLast, OSError.
        """
        self.restore_names()
        if not self._held:
            mounts = self._look()
            for path in self.namespaces:
                lifetime.require_name(path, mounts)
            self._by_init = lifetime.is_inits_to_mount(netns.RUN_DIR, mounts)
        for namespace, program in zip(self.namespaces, LOOKUPS, strict=True):
            self._attachments.refuse_unseen(program, namespace)
        for side in self.sides:
            self._clear_left_over(side)
        # Whoever held the namespaces before this has made all that is in them.
        made = [sides.prepare(side, is_ours=is_mending, by_init=self._by_init) for side in self.sides]
        self._hold()
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
        return [held.name for held in self._held if held.restore_name(by_init=self._by_init)]

    def prove(self, maps: Maps, observed: Observed) -> list[Finding]:
        """What differs from what `make`, `attach` and `maps` left; writes nothing. Raises OSError."""
        conf = maps.conf()
        self._hold()
        if len(self._held) < len(self.sides):
            names = ", ".join(side.namespace for side in self.sides if not netns.is_namespace(side.netns))
            return [Finding(Part.NAMESPACE, None, f"namespace {names} is missing")]
        found = []
        for held in self._held:
            if not held.has_name:
                reason = (
                    f"the name {netns.path_of(held.name)} is gone or leads elsewhere; the namespace lives"
                )
                found.append(Finding(Part.NAMESPACE, None, reason))
        views = [
            look(side, held.path, observed.links) for side, held in zip(self.sides, self._held, strict=True)
        ]
        found += [finding for view in views for finding in view.findings]
        for view, program in zip(views, SIDE_PROGRAMS, strict=True):
            if view.link is not None and (view.link.ifindex, program) not in observed.inner:
                reason = f"{program} is not attached to interface {view.link.ifindex}"
                found.append(Finding(Part.INNER_DEVICE, None, reason))
        for ifindex, program in sorted(observed.behind.keys() & observed.inner):
            who = observed.behind[ifindex, program]
            reason = f"{who} has packets before {program} on {observed.links[ifindex].ifname}"
            found.append(Finding(Part.INNER_DEVICE, None, reason))
        for held, program in zip(self._held, LOOKUPS, strict=True):
            current = self._attachments.program_id(program)
            if self._attachments.attached_lookup(program, held.path) != current:
                reason = f"{program} is not attached to namespace {held.name}"
                found.append(Finding(Part.LOOKUP, None, reason))
        known = [view.link for view in views if view.link is not None]
        if len(known) == len(views) and conf != conf_of(known, conf):
            reason = "map conf does not match the devices and namespaces that are there"
            found.append(Finding(Part.INNER_DEVICE, None, reason))
        if maps.written_conf is not None and (others := changed(maps.written_conf, conf)):
            # Who of this host passes, and what is allowed and limited: nothing else shows that somebody changed it.
            found.append(Finding(Part.ENTRY, None, f"map conf has {', '.join(others)}"))
        return found

    def _clear_left_over(self, side: Side) -> None:
        """Deletes a device of ours that leads into a namespace which has lost its name.

        Nobody finds that namespace again. One that runs programs which are not pinned here is another agent's.
        """
        number = rtnetlink.nsid(side.netns) if netns.is_namespace(side.netns) else None
        for row in rtnetlink.links().values():
            if row.ifname == side.ifname and row.kind == "veth" and row.peer_nsid != number:
                if self._attachments.has_foreign(row.ifindex):
                    raise InstanceInUse(
                        f"device {side.ifname} runs programs whose pins are not seen here, and does not lead into "
                        f"namespace {side.namespace}: another agent of this instance runs, or ran in another mount "
                        f"namespace. End it (`ztun uninstall` where its pins are), or `ip link del {side.ifname}` "
                        "if nothing of it is left, or choose another instance"
                    )
                sides.delete_device(side)

    def _hold(self) -> None:
        """From the first time on that both are there."""
        if not self._held and all(netns.is_namespace(path) for path in self.namespaces):
            self._held = [netns.HeldNamespace(side.namespace) for side in self.sides]

    def mend(self, maps: Maps, observed: Observed) -> list[Finding]:
        """Makes again what `prove` finds missing; what that was. Raises as `make` and `attach` do."""
        found = self.prove(maps, observed)
        if found:
            links = self.make(is_mending=True)
            self.attach(links)
            for ifindex, program in sorted(
                self._attachments.attached().keys() & observed.behind.keys() & observed.inner
            ):
                self._attachments.go_ahead(ifindex, program)
            # Last: packets are sent to a device when the program on it is there.
            maps.put_conf(conf_of(links, maps.settings))
        return found

    def remove(self) -> list[str]:
        """The namespaces with everything in them; what was removed."""
        self.close()
        return [f"namespace {side.namespace}" for side in self.sides if sides.remove(side)]

    def close(self) -> None:
        while self._held:
            self._held.pop().close()


OF_DEVICES = frozenset(
    ("pod_side_ifindex", "net_side_ifindex", "pod_side_nsid", "net_side_nsid", "net_side_mac")
)
"""Of `conf`: what `conf_of` makes of the devices that are there."""
SECRET = frozenset(("choice_key",))


def changed(wanted: Conf, found: Conf) -> list[str]:
    """Settings of `conf` that are not what they should be, in words."""
    return [
        f"another {name}"
        if name in SECRET
        else f"{name} {getattr(found, name)} in place of {getattr(wanted, name)}"
        for name in (field.name for field in fields(Conf))
        if name not in OF_DEVICES and getattr(found, name) != getattr(wanted, name)
    ]


def conf_of(links: Sequence[sides.SideLink], settings: Conf) -> Conf:
    """What the programs are to know of the pod side and of the net side; everything else as in `settings`."""
    pod_side, net_side = links
    return replace(
        settings,
        pod_side_ifindex=pod_side.ifindex,
        net_side_ifindex=net_side.ifindex,
        pod_side_nsid=pod_side.nsid,
        net_side_nsid=net_side.nsid,
        net_side_mac=net_side.inner_mac,
    )
