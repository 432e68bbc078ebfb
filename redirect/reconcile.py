"""The kernel side of one node, whole: what the agent and the commands call.

Puts sides, pins, loader, maps, attachments, plan and reconcile together, under the instance's lock. Every call
blocks and must run in a thread of the node's network namespace that has no running event loop. Everything made
here outlives the process; a second process finds it and goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from redirect import (
    break_glass,
    built,
    existing,
    features,
    lifetime,
    limits,
    loader,
    next_version,
    opening,
    removal,
    rights,
    rt_rows,
    shut,
    sock_diag,
    takers,
)
from redirect.attach import Attachments
from redirect.conf import Conf
from redirect.desired import NO_RULES, Desired, NodeRules
from redirect.entries import captured_pods
from redirect.errors import NoPins, RedirectError, raise_all
from redirect.findings import Finding, of_guards, of_pods, of_rivals, without_listener, without_pin
from redirect.foundation import Foundation, Prepared, conf_of
from redirect.generation import Generation
from redirect.kept_pins import restore_all
from redirect.layout import IP, SLOTS, Flag
from redirect.maps import Maps
from redirect.neighbourhood import Neighbourhood
from redirect.observe import interfaces, observe, observe_some
from redirect.opened import Opened
from redirect.pins import Pins, discard
from redirect.place import Place
from redirect.plan import LEARNT_S, Step, closing, missing, plan
from redirect.repairs import Repairs
from redirect.rings import Rings
from redirect.rivals import Rivals
from redirect.settling import Settling
from redirect.side_check import require_here
from redirect.steps import Executor, Outcome
from redirect.unseen import Passed, Unseen


class Redirection:
    """One instance of ztun in the kernel of this node. `run_dir` holds the lock, and a private bpffs if needed."""

    def __init__(
        self,
        instance: str = "ztun",
        run_dir: Path | None = None,
        *,
        load_timeout_s: float = loader.TIMEOUT_S,
        has_tcx: bool | None = None,
        look: Callable[[], lifetime.Mounts] = lifetime.look,
    ) -> None:
        """`load_timeout_s` is what compiling and loading may take.

        `has_tcx` overrides what the kernel says, and `look` what is mounted, for tests. ValueError: a bad name.
        """
        self.instance = instance
        self.pins = Pins(instance, run_dir, look)
        self._load_timeout_s = load_timeout_s
        self._attachments = Attachments(
            instance, self.pins, lambda program: self._generation.program_fd(program), has_tcx=has_tcx
        )
        self._foundation = Foundation(instance, self._attachments, look)
        self._open_generation: Generation | None = None
        self._unseen = Unseen()
        self._rivals = Rivals()
        self.settling = Settling(self.pins, self._attachments)
        self.repairs = Repairs()

    @property
    def private_namespaces(self) -> tuple[Path, Path]:
        """Where the sockets of the pod side and of the net side are made."""
        return self._foundation.namespaces

    def pin_directories(self) -> tuple[Path, ...]:
        """Where what is pinned now lies, and the directory above."""
        return self.pins.links, self.pins.generation, self.pins.root

    @property
    def is_installed(self) -> bool:
        """Whether anything of this instance is in the kernel, be it a part."""
        return self.pins.exists or self._foundation.exists or self._attachments.has_guards

    def prepare(self, rules: NodeRules = NO_RULES) -> Prepared:
        """Makes everything that does not depend on pods, or takes it over as it is.

        Raises NotRoot, KernelTooOld, InstanceInUse, WouldNotLast, LayoutMismatch, LoaderError, OSError.
        """
        rights.require()
        probed = features.probe()
        probed.require()
        with self.pins.locked():
            self.pins.require_lasting()
            # Namespaces first: they fail when another node of this machine has this instance name.
            links = self._foundation.make()
            self.pins.mount()
            compiled = self._load()
            # Workers that live on go on taking what is held.
            self._maps.put_conf(conf_of(links, rules.conf(self._maps.conf())))
            self._foundation.attach(links)
            next_version.take_over(self.pins, self._maps, self._attachments)
        return Prepared(compiled, *self.private_namespaces, probed.limits)

    def own(self, rules: NodeRules = NO_RULES) -> Prepared:
        """`prepare`, as the only process of this instance: until `close` no other can, whatever its run directory.

        Raises as `prepare`, and InstanceInUse before anything is changed.
        """
        self._foundation.claim()
        prepared = self.prepare(rules)
        # Those that were not there before.
        self._foundation.claim()
        return prepared

    def close_off(
        self,
        interfaces: Mapping[int, str],
        running: Mapping[int, Collection[IP]],
        owners: Mapping[int, str],
        *,
        is_outward_only: bool = False,
        learnt: Collection[int] = (),
    ) -> None:
        """Lets nothing through interfaces of which nothing is known yet (ifindex -> name) but answers to the node.

        `running`: those that were in clear before, and known addresses; nothing asked there is lost. `owners`: as of
        DesiredPod, by interface; `is_outward_only`, `learnt`: as of `plan.closing`. Raises as `apply`.
        """
        with self.pins.locked():
            steps = closing(
                interfaces,
                running,
                owners,
                is_outward_only=is_outward_only,
                learnt=learnt,
                learnt_until_s=opening.in_s(LEARNT_S),
            )
            raise_all(self._execute(steps, interfaces).failures)

    def apply(
        self,
        desired: Desired,
        *,
        keep_existing: Mapping[int, float] = existing.NOBODYS,
        only: Collection[int] | None = None,
    ) -> list[str]:
        """Makes the kernel side what is desired; what was done, a line for each step.

        Connections that are open when a pod appears are reset, or left alone where its interface is in `keep_existing`,
        for so many seconds at most (math.inf: until they close). A pod whose interface is gone is let go, and a line
        says so. With `only` nothing else is looked at and changed, whatever became of the rest. Raises NoPins, and when
        all is done that could be StepFailed, MapFull or StepsFailed, which have those lines as `done`.
        """
        with self.pins.locked():
            done: list[str] = []
            failures: list[RedirectError] = []
            if only is None:
                observed = observe(self._maps, self._attachments)
                self._rivals.note(observed, time.monotonic())
                done, failures = self.repairs.mend(
                    self._restore_pins,
                    lambda: self._foundation.mend(self._maps, self._rivals.to_move(observed)),
                )
                if done:
                    observed = observe(self._maps, self._attachments)
                self._attachments.forget_qdiscs(observed.links)
            else:
                observed, desired = observe_some(self._maps, self._attachments, only, desired)
                self._rivals.note(observed, time.monotonic())
            gone = missing(desired, observed)
            done += [f"{pod.ifname} (interface {pod.ifindex}) is gone: not captured" for pod in gone]
            present = [pod for pod in desired.pods if pod not in gone]
            done += existing.keep_fresh(self._maps, present, observed.ifaces, keep_existing)
            lapsed = self._unseen.lapsed((pod.ifindex for pod in desired.pods), observed)
            given_up = self._rivals.given_up(observed)
            wanted = self._rivals.closed(desired, observed)
            steps = plan(wanted, self._rivals.to_move(observed))
            outcome = self._execute(steps, observed.interfaces)
            done += outcome.done
            existing.settle(self._maps, present, observed.ifaces, keep_existing)
            failed = {failure.ifindex for failure in outcome.failures} | {ifindex for ifindex, _ in given_up}
            if lapsed:
                counts, now_s = rt_rows.packet_counts(), time.monotonic()
                mended = [
                    (ifindex, observed.links[ifindex].ifname) for ifindex in lapsed if ifindex not in failed
                ]
                done += [self._unseen.report(*each, counts, now_s) for each in mended]
                self.repairs.of_pods(len(mended))
            raise_all([*failures, *outcome.failures], done)
            return done

    def keep_guards(self) -> list[str]:
        """What keeps captured pods closed where nothing holds their links any more, for some of them at a time.

        What changed, in lines; meant for every other second, beside `prove`. Raises NoPins, OSError.
        """
        with self.pins.locked():
            ifaces = self._maps.ifaces()
            return self._attachments.keep_guards(at for at in ifaces if Flag.GUARDED in ifaces[at].flags)

    def kept(self) -> tuple[existing.Kept, ...]:
        """Connections that `apply` left alone; ends those whose time is over. Raises NoPins, OSError."""
        with self.pins.locked():
            return existing.look(self._maps, time.monotonic_ns())

    def prove(self, desired: Desired) -> tuple[Finding, ...]:
        """What of `prepare` and of `apply(desired)` is not so, asked of the kernel; writes nothing.

        Meant for every other second: some milliseconds for 100 pods. What `is_mendable` the next `apply` mends.
        Raises NoPins, or OSError where the kernel cannot be asked.
        """
        observed = observe(self._maps, self._attachments)
        self.settling.note(observed)
        given_up, to_move = self._rivals.given_up(observed), self._rivals.to_move(observed)
        found = [*of_pods(self._rivals.closed(desired, observed), to_move), *of_rivals(given_up, observed)]
        found += of_guards(self._attachments.behind_guards, observed)
        found += self._foundation.prove(self._maps, to_move)
        found += [without_listener(name) for name, slot in SLOTS.items() if not self._maps.slots()[slot]]
        lost = self._generation.lost_pins() + self._attachments.lost_pins()
        found += [without_pin(name, self.pins.root) for name in lost]
        self._unseen.proven(
            [pod.ifindex for pod in desired.pods], observed, rt_rows.packet_counts(), time.monotonic()
        )
        return tuple(found)

    def built_elsewhere(self) -> list[Finding]:
        """Programs that were not built here, by their tags: pinned in the place of ours. Raises NoPins, OSError."""
        return built.prove(self.pins, self._generation.programs)

    def captured(self) -> tuple[Place, ...]:
        """The enrolled pods as the maps have them; `ifname` is empty when the interface is gone. Raises NoPins."""
        maps = self._maps
        found = captured_pods(interfaces(), maps.ifaces(), maps.pods(), maps.owners())
        return tuple(map(Place.of, found))

    def set_listeners(self, fds: Mapping[str, int]) -> None:
        """A listening socket for each name of SLOTS, in place of those that are there. Raises KeyError."""
        takers.fill(self._maps, fds)

    def clear_listeners(self, *only: str) -> None:
        """Empties slots, or `only` these: new connections are dropped and counted, open ones go on. Raises NoPins."""
        takers.clear(self._maps, only)

    def set_takers(self, fds: Sequence[Mapping[str, int]], *, have_rings: bool) -> None:
        """Listening sockets of each owner of connections, as `takers.put` says. Raises NoPins, KeyError."""
        takers.put(self._maps, fds, have_rings=have_rings)

    def rings(self, count: int) -> Rings:
        """The rings of so many owners: those that are there, and new ones for the others. Raises NoPins, OSError."""
        return Rings(os.dup(self._maps.fds["rings"]), count)

    def let_host(self, group: int) -> None:
        """Whose connections from the node to captured pods pass: as in `host_senders`. Raises NoPins."""
        self._maps.let_host(group)

    def conf(self) -> Conf:
        """What the programs are told of this node. Raises NoPins."""
        return self._maps.conf()

    def descriptor(self, name: str) -> int:
        """Of a map; the caller's. Raises NoPins, OSError."""
        return os.dup(self._maps.fds[name])

    def half_open(self) -> int:
        """How many connections to the listeners are in their handshake."""
        return sum(map(sock_diag.half_open, self.private_namespaces))

    def slots(self) -> tuple[bool, ...]:
        """Whether each slot has a listener, in their order. One that has none drops new connections."""
        return self._maps.slots()

    def stats(self) -> dict[tuple[str, str], int]:
        """Packets by (program, reason). Starts anew with programs of another layout."""
        return self._maps.stats()

    @property
    def neighbourhood(self) -> Neighbourhood:
        """What keeps the neighbours of captured pods true. Raises NoPins."""
        return self._generation.neighbourhood

    def passed(self) -> Passed:
        """What can have passed captured interfaces before `apply` made whole what was not; since this was built."""
        return self._unseen.total

    def opened(self) -> tuple[Opened, ...]:
        """Pods whose connections go past the proxy for a while, because somebody broke the glass. Raises NoPins."""
        return break_glass.looked_at(self._maps)

    def eject(self, ifindexes: Collection[int]) -> Outcome:
        """Takes these out, without the lock, whose holder may be stopped. Raises NoPins, WrongNode, OSError."""
        require_here(self.instance)
        return removal.eject(self._maps, self._attachments, self._execute, ifindexes)

    def captures(self) -> dict[int, limits.CaptureCount]:
        """New connections of captured pods that were handed to the proxy, by ifindex; SYNs sent again count too."""
        return self._maps.captures()

    def uninstall(self) -> list[str]:
        """Removes everything of this instance from the kernel; what was done, in lines. Pods are open after it.

        Captured connections are reset first; if that fails the answer says so, and the rest goes on. Where nothing is
        there, nothing is made. Raises WrongNode, InstanceInUse while an agent runs, OSError.
        """
        if not self.is_installed:
            self.pins.remove_files()
            return []
        require_here(self.instance)
        with self.pins.locked():
            self._foundation.claim()
            removed = []
            if self.pins.is_complete:
                removed += removal.release_all(self._maps, self._attachments, self._execute)
            removed += removal.detach_all(self._attachments)
            self._let_go()
            for directory in self.pins.generations():
                discard(directory)
                removed.append(f"removed pins {directory}")
            removed += [f"removed {line}" for line in self._foundation.remove()]
            if self.pins.links.is_dir():
                discard(self.pins.links)
            self.pins.unmount()
            self.pins.remove_files()
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

    @property
    def _generation(self) -> Generation:
        if self._open_generation is None:
            if not self.pins.is_complete:
                raise NoPins(
                    f"instance {self.instance} has no programs of this version in {self.pins.root}: "
                    "no agent's programs are here (uninstalled, or none has ever run); `ztun agent` puts them there"
                )
            self._open_generation = Generation(self.pins)
        return self._open_generation

    @property
    def _maps(self) -> Maps:
        return self._generation.maps

    def _load(self) -> bool:
        """Puts this layout's programs there, on the maps of an older one where possible; whether it had to."""
        if self._open_generation is not None:
            self._restore_pins()
        compiled = not next_version.is_there(self.pins)
        if compiled:
            next_version.install(self.pins, self._attachments.program_ids(), self._load_timeout_s)
            if self._open_generation is not None:
                self._open_generation.close()
                self._open_generation = None
        return compiled

    def _restore_pins(self) -> list[str]:
        """Pins again what this process holds, also where another bpffs is in the place of the one before."""
        generation = self._generation
        self.pins.mount()
        return restore_all(generation.restore_pins, self._attachments.restore_pins)

    def _let_go(self) -> None:
        self._attachments.close()
        self._foundation.close()
        if self._open_generation is not None:
            self._open_generation.close()
            self._open_generation = None

    def _execute(self, steps: Iterable[Step], names: Mapping[int, str]) -> Outcome:
        executor = Executor(self._maps, self._attachments, self._foundation.sides, self.neighbourhood)
        steps = tuple(steps)
        outcome = executor.apply(steps, names)
        return shut.after(outcome, steps, self._maps, self._attachments) if outcome.failures else outcome
