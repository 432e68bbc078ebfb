"""`ztun.v1.Enrolment`: agents say which pods they capture; only those are announced as reachable by HBONE.

A report is the whole set of a node and replaces the one before; an empty one ends its enrolment. The sets are kept in
`enrolled.json`: a restart of the control plane must not turn captured pods to plaintext until every agent has
reported again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.serve.access import Code, Refused
from agent.controlplane.serve.xds_service import Authenticate
from agent.controlplane.state_dir import StateDirectory, StateError
from agent.controlplane.translate.making import PodKey
from agent.model.counted import counted
from agent.pb import ztun_pb2 as ztun

SERVICE = "ztun.v1.Enrolment"
FILE = "enrolled.json"
NOBODY: Mapping[str, tuple[PodKey, ...]] = {}

log = logging.getLogger(__name__)


class EnrolledPods:
    """Node -> the pods its agent says it captures; outlives the process."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        known = directory.read_json(FILE, _decode, None)
        self.is_lost = known is None
        """Whether nothing is known of before: this is the first one, or has not the state of the one before."""
        self.by_node: Mapping[str, tuple[PodKey, ...]] = NOBODY if known is None else known

    def replace(self, node: str, pods: tuple[PodKey, ...]) -> bool:
        """Set a node's pods; returns whether that changes anything. Raises StateError; nothing has changed then."""
        if self.by_node.get(node, ()) == pods:
            return False
        others = {n: p for n, p in self.by_node.items() if n != node}
        by_node = {**others, **({node: pods} if pods else {})}
        self._directory.write_json(FILE, by_node)
        self.by_node = by_node
        return True


def _decode(value: object) -> Mapping[str, tuple[PodKey, ...]] | None:
    if not isinstance(value, dict):
        raise ValueError("want nodes with lists of pods")
    return {
        str(node): tuple((str(namespace), str(name)) for namespace, name in pods)
        for node, pods in value.items()
    }


class EnrolmentService:
    """Takes reports. `changed` is called after the sets changed, `heard` after each; `inventory` has the pods."""

    def __init__(
        self,
        pods: EnrolledPods,
        authenticate: Authenticate,
        inventory: Callable[[], Inventory],
        changed: Callable[[], None],
        heard: Callable[[str], None],
    ) -> None:
        self._pods, self._authenticate, self._heard = pods, authenticate, heard
        self._inventory, self._changed = inventory, changed

    def handler(self) -> Any:
        method = grpc.unary_unary_rpc_method_handler(
            self._report,
            request_deserializer=ztun.EnrolledReport.FromString,
            response_serializer=ztun.EnrolledReply.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Report": method})

    async def _report(self, request: ztun.EnrolledReport, context: Any) -> ztun.EnrolledReply:
        try:
            return self._answer(await self._authenticate(context), request)
        except Refused as refusal:
            log.warning("enrolment report of %s refused: %s", context.peer(), refusal)
            await context.abort(grpc.StatusCode[refusal.code.name], str(refusal))
            raise  # abort has raised already

    def _answer(self, node: str, request: ztun.EnrolledReport) -> ztun.EnrolledReply:
        if request.node != node:
            raise Refused(
                Code.PERMISSION_DENIED,
                f"the token is of node {node!r}; it may not report for {request.node!r}",
            )
        pods = tuple(sorted({(pod.namespace, pod.name) for pod in request.pods}))
        try:
            if self._pods.replace(node, pods):
                log.info("node %s captures %s", node, counted(len(pods), "pod"))
                self._changed()
            self._heard(node)
        except StateError as error:
            raise Refused(Code.UNAVAILABLE, str(error)) from error
        there = {(p.meta.namespace, p.meta.name) for p in self._inventory().pods if p.node == node}
        return ztun.EnrolledReply(unknown=["/".join(pod) for pod in pods if pod not in there])
