"""From what was read and reported to what is published: the one place where the control plane's state comes about.

A reading of the manifests is composed by what it changes, and served before anything is said about it. What only
closes goes first where there is much: it waits neither for the files read with it nor for the rest to be composed. An
enrolment report changes the pods that it is about. Allocated addresses are on disk before anybody hears of them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from agent.controlplane.read.admission import NOTHING, Standing
from agent.controlplane.read.changes import Changes, between
from agent.controlplane.read.directory import Reading
from agent.controlplane.read.inventory import Inventory, collect
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import Object
from agent.controlplane.read.overtaking import Guard, only_closes
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.serve.enrolment_service import EnrolledPods
from agent.controlplane.serve.publisher import Publisher, State
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.state_dir import StateDirectory, StateError
from agent.controlplane.translate.addressing import Addressed, Addressing, remembered_names
from agent.controlplane.translate.compose import Composed
from agent.controlplane.translate.mesh import MeshSettings, discovered, mesh_of
from agent.controlplane.translate.refusals import refusals
from agent.controlplane.translate.vips import Remembered
from agent.model.address import CIDR
from agent.model.counted import counted

VIPS_FILE = "vips.json"
Guards = Mapping[Key, Object]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A mesh composed of `standing`, and of the guards `ahead` that are in force before their turn.

    `rest`: whether there is more in the reading than that.
    """

    composed: Composed
    addressing: Addressing
    standing: Standing
    guards: Guards = field(default_factory=dict)
    ahead: Guards = field(default_factory=dict)
    rest: bool = False


class Publication:
    """Holds what is served and remakes what of it changes when an input does."""

    def __init__(
        self,
        settings: MeshSettings,
        ranges: tuple[CIDR, ...],
        pods: EnrolledPods,
        publisher: Publisher,
        board: StatusBoard,
        state: StateDirectory,
    ) -> None:
        self._settings, self._ranges, self._pods = settings, ranges, pods
        self._publisher, self._board, self._state = publisher, board, state
        self._vips: Remembered = state.read_json(VIPS_FILE, _decode, {})
        self._is_new = True
        self._served = Composed(Inventory(), pods.by_node, settings)
        self._made = Made(self._served, Addressing(remembered=self._vips), NOTHING)
        """The last one of which everything is served."""
        self._unwritten: tuple[ManifestError, ...] = ()

    def inventory(self) -> Inventory:
        return self._served.inventory

    @property
    def unaddressed(self) -> tuple[ManifestError, ...]:
        """Why Services have no address that want one."""
        return (*self._made.addressing.errors, *self._unwritten)

    @property
    def has_rest(self) -> bool:
        """Whether there is more in the last reading than what is served: `make` of it is to be called again."""
        return self._made.rest

    def make(self, reading: Reading, pulse: Callable[[], None] = lambda: None) -> Made | None:
        """What a reading comes to; None: nothing can be served yet. Changes nothing, and may run in a thread.

        `pulse` is called now and then where it takes long; what it raises comes out of here.
        """
        if not reading.is_complete:
            return None
        before = self._made
        changes = between(before.standing, reading.standing)
        if before.composed.is_whole_affair(changes) and not (self._is_new or self._unwritten):
            urgent = {
                key: made
                for key, made in _guards(changes.come).items()
                if only_closes(before.guards.get(key), made)
            }
            if any(before.ahead.get(key) != made for key, made in urgent.items()):
                waiting = _ahead(reading.waiting, before.guards)
                return self._overtaken(before, {**waiting, **urgent}, rest=True)
        after = self._followed(before, changes, reading.standing, pulse)
        return self._overtaken(after, _ahead(reading.waiting, after.guards))

    def _followed(
        self, before: Made, changes: Changes, standing: Standing, pulse: Callable[[], None]
    ) -> Made:
        """The mesh of a standing, with nothing ahead of it but what was."""
        guards = {k: o for k, o in before.guards.items() if k not in changes.gone} | _guards(changes.come)
        if self._is_new or before.composed.is_whole_affair(changes):
            return self._whole(before, standing, guards, pulse)
        changes = before.composed.counting(_onto(before.ahead, before.guards, changes))
        addressing = before.addressing
        if addressing.is_touched_by(changes):
            addressing, changes = addressing.changed(changes, before.composed.pods, self._ranges)
        return Made(before.composed.changed(changes), addressing, standing, guards)

    def _whole(self, before: Made, standing: Standing, guards: Guards, pulse: Callable[[], None]) -> Made:
        everything = collect(standing.served())
        found = discovered(everything, mesh_of(everything, self._settings))
        asked: list[Addressed] = [*found.services, *found.service_entries]
        addressing = Addressing.of(asked, found.pods, self._ranges, before.addressing.remembered)
        given = collect(addressing.given.values())
        # The mesh config stays in it, so that the same mesh is found again.
        inventory = dataclasses.replace(found, services=given.services, service_entries=given.service_entries)
        composed = Composed(inventory, self._pods.by_node, self._settings, pulse)
        return Made(composed, addressing, standing, guards)

    def _overtaken(self, made: Made, ahead: Guards, rest: bool = False) -> Made:
        """With those guards ahead of what it is made of, in place of the ones that were."""
        keys = made.ahead.keys() | ahead.keys()
        was = {k: o for k in keys if (o := made.ahead.get(k, made.guards.get(k))) is not None}
        now = {k: o for k in keys if (o := ahead.get(k, made.guards.get(k))) is not None}
        others = {k for k in keys if was.get(k) != now.get(k)}
        changes = Changes(
            {k: o for k, o in was.items() if k in others}, {k: o for k, o in now.items() if k in others}
        )
        composed = made.composed.changed(changes) if len(changes) else made.composed
        return dataclasses.replace(made, composed=composed, ahead=ahead, rest=rest)

    def take(self, made: Made) -> None:
        """Serve it.

        Raises StateError where new addresses cannot be written down: all else is served then, and the reading is to be
        made again. Nothing is, where nothing was before.
        """
        if made.addressing.remembered != self._vips:
            try:
                self._state.write_json(VIPS_FILE, made.addressing.remembered)
            except StateError as error:
                if not self._is_new:
                    self._take_without_addresses(made, error)
                raise
            self._vips = made.addressing.remembered
        self._made, self._served, self._unwritten, self._is_new = made, made.composed, (), False
        self.refresh()

    def _take_without_addresses(self, made: Made, why: StateError) -> None:
        """Serve it, but Services as they were that would have addresses that no later run knows.

        A policy among what has changed waits for no disk.
        """
        before, after = self._made.addressing, made.addressing
        new = {
            key: service
            for key, service in after.given.items()
            if any(after.remembered.get(n) != self._vips.get(n) for n in remembered_names(service))
        }
        was = {key: before.given[key] for key in new if key in before.given}
        self._served = made.composed.changed(Changes(new, was)) if new else made.composed
        self._unwritten = tuple(
            service.meta.place.error(
                f"{service.meta}: its new address cannot be kept: {why}", "spec.clusterIP"
            )
            for service in new.values()
        )
        self.refresh()

    def wait(self, reading: Reading) -> None:
        """Say why nothing is served yet."""
        everything = collect(reading.standing.served())
        said = refusals(reading.standing, mesh_of(everything, self._settings))
        self._publisher.wait("; ".join(remark.what for remark in said if remark.outcome == "waiting"))

    def refresh(self) -> None:
        """Publish, with the pods that are enrolled now."""
        composed, enrolled = self._served, self._pods.by_node
        if composed.enrolled != enrolled:
            composed = composed.with_enrolled(enrolled)
            if self._served is self._made.composed:
                self._made = dataclasses.replace(self._made, composed=composed)
            self._served = composed
        if self._is_new:
            return
        snapshot = composed.snapshot
        if self._publisher.publish(State(composed.inventory, snapshot, composed.mesh.trust_domain)):
            log.info(
                "serving %s, %s",
                counted(len(snapshot.addresses), "address", "addresses"),
                counted(len(snapshot.policies), "policy", "policies"),
            )
        self._board.published(snapshot, self._vips, enrolled)


def _guards(objects: Mapping[Key, Object]) -> dict[Key, Object]:
    return {key: made for key, made in objects.items() if isinstance(made, Guard)}


def _ahead(waiting: Iterable[Object], guards: Guards) -> dict[Key, Object]:
    return {made.meta.key: made for made in waiting if only_closes(guards.get(made.meta.key), made)}


def _onto(ahead: Guards, guards: Guards, changes: Changes) -> Changes:
    """The same changes for a mesh where some guards are ahead: those are gone first, for what is to be there."""
    gone, come = dict(changes.gone), dict(changes.come)
    for key, ours in ahead.items():
        wanted = come.get(key) or (None if key in gone else guards.get(key))
        gone.pop(key, None), come.pop(key, None)
        if wanted != ours:
            gone[key] = ours
            if wanted is not None:
                come[key] = wanted
    return Changes(gone, come)


def _decode(value: object) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError("want Services with lists of addresses")
    return {str(name): tuple(map(str, addresses)) for name, addresses in value.items()}
