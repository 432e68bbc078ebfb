"""The kernel side of one node, whole: what the agent and the commands call.

Puts sides, pins, loader, maps, attachments, plan and reconcile together, under the instance's lock. Every call
blocks and must run in a thread of the node's network namespace that has no running event loop. Everything made
here outlives the process; a second process finds it and goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError

from redirect import carry_over, features, loader, netns, packet_size, sock_diag
from redirect.attach import Attachments
from redirect.desired import Desired, DesiredPod, NextHop
from redirect.errors import NoPins, RedirectError, StepFailed, raise_all
from redirect.foundation import Foundation, conf_of
from redirect.generation import Generation
from redirect.layout import (
    HOOK_FROM_POD,
    HOOK_TO_POD,
    IP,
    NO_MAC,
    SLOTS,
    CaptureCount,
    Flag,
    FlowKey,
    IfaceEntry,
    PodEntry,
)
from redirect.locate import Place, namespace_behind
from redirect.maps import Maps
from redirect.observe import Observed, interfaces, observe
from redirect.packet_size import PacketSize
from redirect.pins import Pins, discard
from redirect.plan import Step, closing, missing, plan
from redirect.rtnetlink import DEFAULT_MTU_BYTES
from redirect.steps import Executor

_TCP = 6


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` found or made. `compiled`: the programs were not there yet."""

    compiled: bool
    pod_side: Path
    net_side: Path
    features: features.Features


class Redirection:
    """One instance of ztun in the kernel of this node. `run_dir` holds the lock, and a private bpffs if needed."""

    def __init__(
        self,
        instance: str = "ztun",
        run_dir: Path | None = None,
        *,
        has_tcx: bool | None = None,
    ) -> None:
        """`has_tcx` overrides what the kernel says, for tests. Raises ValueError for a bad instance name."""
        self.instance = instance
        self.pins = Pins(instance, run_dir)
        self._attachments = Attachments(
            instance, self.pins, lambda program: self._generation.program_fd(program), has_tcx=has_tcx
        )
        self._foundation = Foundation(instance, self._attachments)
        self._open_generation: Generation | None = None

    @property
    def private_namespaces(self) -> tuple[Path, Path]:
        """Where the sockets of the pod side and of the net side are made."""
        return self._foundation.namespaces

    def prepare(self, *, is_dns_captured: bool = False) -> Prepared:
        """Makes everything that does not depend on pods, or takes it over as it is.

        Raises NotRoot, KernelTooOld, InstanceInUse, LayoutMismatch, LoaderError, OSError.
        """
        probed = features.probe()
        probed.require()
        with self._writing():
            # Namespaces first: they fail when another node of this machine has this instance name.
            links = self._foundation.make()
            self.pins.mount()
            compiled = self._load()
            self._maps.put_conf(conf_of(links, is_dns_captured))
            self._foundation.attach(links)
            self._take_over()
        return Prepared(compiled, *self.private_namespaces, probed)

    def close_off(self, interfaces: Mapping[int, str]) -> None:
        """Lets nothing through interfaces of which nothing is known yet; ifindex -> name. Raises as `apply`."""
        with self._writing():
            Executor(self._maps, self._attachments, self._foundation.sides).apply(
                closing(interfaces), interfaces
            )

    def apply(self, desired: Desired, *, keep_existing: Collection[int] = ()) -> list[str]:
        """Makes the kernel side what is desired; what was done, a line for each step.

        Connections that are open when a pod appears are reset, or left alone until they close where its interface is
        among `keep_existing`. A pod whose interface is gone is let go, and a line says so. Raises NoPins, and when
        everything that could be done is done StepFailed, MapFull or StepsFailed.
        """
        with self._writing():
            done, failures = self._hold_on()
            observed = observe(self._maps, self._attachments)
            self._attachments.forget_qdiscs(observed.interfaces)
            gone = missing(desired, observed)
            done += [f"{pod.ifname} (interface {pod.ifindex}) is gone: not captured" for pod in gone]
            # One that is closed off without addresses was not the pod's yet.
            known = {ifindex for ifindex, entry in observed.ifaces.items() if entry.addresses}
            known |= {pod.ifindex for pod in gone}
            fresh = [pod for pod in desired.pods if pod.ifindex in keep_existing and pod.ifindex not in known]
            done += [self._keep(pod) for pod in fresh]
            try:
                done += self._execute(plan(desired, observed), observed)
            except RedirectError as error:
                failures.append(error)
            raise_all(failures)
            return done

    def audit(self, desired: Desired) -> list[str]:
        """What differs from `desired` and from `prepare`, one line each; writes nothing."""
        observed = observe(self._maps, self._attachments)
        found = [f"{pod.ifname} (interface {pod.ifindex}) is gone" for pod in missing(desired, observed)]
        found += [f"missing step: {step}" for step in plan(desired, observed)]
        return found + self._foundation.drift(self._maps.conf())

    def captured(self) -> tuple[Place, ...]:
        """The enrolled pods as the maps have them; `ifname` is empty when the interface is gone. Raises NoPins."""
        present, pods = interfaces(), self._maps.pods()
        return tuple(
            _place(ifindex, present.get(ifindex, ""), entry, pods)
            for ifindex, entry in sorted(self._maps.ifaces().items())
            if entry.flags & Flag.ENROLLED
        )

    def set_listeners(self, fds: Mapping[str, int]) -> None:
        """A listening socket for each name of SLOTS, in place of those that are there. Raises KeyError."""
        for name, slot in SLOTS.items():
            self._maps.put_listener(slot, fds[name])

    def slots(self) -> tuple[bool, ...]:
        """Whether each slot has a listener, in their order. One that has none drops new connections."""
        return self._maps.slots()

    def stats(self) -> dict[tuple[str, str], int]:
        """Packets by (program, reason). Starts anew with new programs."""
        return self._maps.stats()

    def captures(self) -> dict[int, CaptureCount]:
        """New connections of captured pods that were handed to the proxy, by ifindex; SYNs sent again count too."""
        return self._maps.captures()

    def allow_existing(self, addresses: Collection[IP], pod_netns: Path) -> int:
        """Lets a pod's open TCP connections pass as they are. To be called just before it appears; how many.

        They pass until they close, or until their port is used again.
        """
        with netns.entered(pod_netns):
            found = [s for s in sock_diag.tcp_sockets() if s.local in addresses and s.is_open]
        self._maps.put_passthrough((flow for s in found for flow in _both_directions(s)), time.monotonic_ns())
        return len(found)

    def uninstall(self) -> list[str]:
        """Removes everything of this instance from the kernel; what was removed. Pods are open after it.

        Captured connections are reset first; if that fails the answer says so, and the rest goes on.
        """
        with self._writing():
            removed = self._release_all() + self._detach_all()
            self._let_go()
            for directory in self.pins.generations():
                discard(directory)
                removed.append(f"pins {directory}")
            removed += self._foundation.remove()
            if self.pins.links.is_dir():
                discard(self.pins.links)
            self.pins.unmount()
            self.pins.remove_lock()
            return removed

    def close(self) -> None:
        """Gives the file descriptors back; the kernel side stays as it is.

        What lost its pin is pinned again first. Raises OSError, when all is done, where that fails: nothing holds
        those links once this process has let go, and their pods are open.
        """
        try:
            if self._open_generation is not None:
                self._restore_pins()
        finally:
            self._let_go()

    def _keep(self, pod: DesiredPod) -> str:
        try:
            namespace = namespace_behind(pod.ifindex)
            if namespace is None:
                return f"open connections of {pod.ifname} will be reset: its namespace was not found"
            kept = self.allow_existing(pod.addresses, namespace)
        except (NetlinkError, OSError) as error:
            return f"open connections of {pod.ifname} will be reset: they cannot be listed ({error})"
        return f"keep {kept} open connections of {pod.ifname}"

    @property
    def _generation(self) -> Generation:
        if self._open_generation is None:
            if not self.pins.is_complete:
                raise NoPins(
                    f"instance {self.instance} has no programs of this version in {self.pins.root}: "
                    "has an agent ever run here? `ztun agent` puts them there"
                )
            self._open_generation = Generation(self.pins)
        return self._open_generation

    @property
    def _maps(self) -> Maps:
        return self._generation.maps

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time; what netlink refuses is an OSError like everything else."""
        with self.pins.locked():
            try:
                yield
            except NetlinkError as error:
                raise OSError(error.code, f"netlink: {os.strerror(error.code)}") from error

    def _load(self) -> bool:
        """Puts this layout's programs there, on the maps of an older one where possible; whether it had to."""
        if self._open_generation is not None:
            self._restore_pins()
        compiled = not self.pins.is_complete
        if compiled:
            staging = self.pins.staging()
            carry_over.recover(
                self._attachments.attached().values(), self.pins.generations(), self.pins.recovered
            )
            older = [path for path in self.pins.generations() if path != staging]
            try:
                carry_over.share(older, staging)
                loader.load(staging)
                carry_over.copy(older, staging)
            except BaseException:
                discard(staging)
                raise
            self.pins.adopt(staging)
        return compiled

    def _restore_pins(self) -> list[str]:
        """Pins again what this process holds, also where another bpffs is in the place of the one before."""
        generation = self._generation
        self.pins.mount()
        return generation.restore_pins() + self._attachments.restore_pins()

    def _hold_on(self) -> tuple[list[str], list[RedirectError]]:
        """Gives pins and names back to what this process holds: what was done, and what could not be."""
        done: list[str] = []
        failures: list[RedirectError] = []
        for what, restore in (("pin", self._restore_pins), ("namespace", self._foundation.restore_names)):
            try:
                done += [f"{what} {name} was gone: made again" for name in restore()]
            except OSError as error:
                failures.append(StepFailed(f"make a lost {what} again", error))
        return done, failures

    def _let_go(self) -> None:
        self._attachments.close()
        self._foundation.close()
        if self._open_generation is not None:
            self._open_generation.close()
            self._open_generation = None

    def _take_over(self) -> None:
        """Swaps the programs of captured pods for this generation's and drops other generations."""
        others = [path for path in self.pins.generations() if path != self.pins.generation]
        if others:
            observed = observe(self._maps, self._attachments)
            for ifindex, program in observed.stale:
                if ifindex in observed.interfaces:
                    # One that fails keeps its older program, closed as it was: `audit` shows it, and `apply`, which
                    # follows, tries again and names it. The others must not wait for it.
                    with suppress(RedirectError, NetlinkError, OSError):
                        self._attachments.attach(ifindex, program)
            for path in others:
                discard(path)

    def _release_all(self) -> list[str]:
        if not self.pins.is_complete:
            return []
        try:
            observed = observe(self._maps, self._attachments)
            return self._execute(plan(Desired((), observed.host_addresses), observed), observed)
        except (RedirectError, OSError) as error:
            return [f"could not release the pods in order: {error}"]

    def _execute(self, steps: Iterable[Step], observed: Observed) -> list[str]:
        executor = Executor(self._maps, self._attachments, self._foundation.sides)
        return executor.apply(steps, observed.interfaces)

    def _detach_all(self) -> list[str]:
        removed = []
        for ifindex, program in sorted(self._attachments.attached()):
            self._attachments.detach(ifindex, program)
            removed.append(f"program {program} of interface {ifindex}")
        self._attachments.detach_lookups()
        return removed


def _place(ifindex: int, ifname: str, entry: IfaceEntry, pods: Mapping[IP, PodEntry]) -> Place:
    """As the maps have it. An address whose entry is missing (its capture failed half way) has no MACs."""
    known = {address: pods[address] for address in entry.addresses if address in pods}
    mac = next((pod.pod_mac for pod in known.values()), NO_MAC)
    hops = (_hop(address.version, known.get(address)) for address in entry.addresses)
    return Place(ifindex, ifname, entry.addresses, mac, tuple(hops))


def _hop(version: int, pod: PodEntry | None) -> NextHop:
    if pod is None:
        return NextHop(version, NO_MAC, packet_size.of_link(DEFAULT_MTU_BYTES, version))
    return NextHop(version, pod.hop_mac, PacketSize(pod.mtu_bytes, pod.mss_bytes))


def _both_directions(socket: sock_diag.TcpSocket) -> tuple[FlowKey, FlowKey]:
    """As from_pod sees the pod's packets, and as to_pod sees those that come in."""
    pod, peer = (socket.local, socket.local_port), (socket.remote, socket.remote_port)
    return (
        FlowKey(pod[0], peer[0], pod[1], peer[1], _TCP, HOOK_FROM_POD),
        FlowKey(peer[0], pod[0], peer[1], pod[1], _TCP, HOOK_TO_POD),
    )
