"""`/cni`: what the CNI plugin of this node asks. What the sandbox must not start for is its own text (400)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.admin.server import BadRequest, Request, Response, as_json
from agent.enroll.wish import PodKey
from agent.kubernetes.sandbox import NotAdmitted, Sandbox

if TYPE_CHECKING:
    from agent.kubernetes.gate import CniGate

NO_GATE = (
    "this agent runs with --pod-source command and knows no pod of Kubernetes: start it with --pod-source kubernetes, "
    "or take ztun-cni out of the network configuration"
)


@dataclass(frozen=True, slots=True)
class CniPage:
    """`gate` is None where nobody follows the Kubernetes API."""

    gate: CniGate | None

    async def __call__(self, request: Request) -> Response:
        if self.gate is None:
            raise BadRequest(NO_GATE)
        body = request.json()
        try:
            return as_json(await self._answer(self.gate, body))
        except NotAdmitted as refusal:
            raise BadRequest(str(refusal)) from refusal

    async def _answer(self, gate: CniGate, body: dict[str, Any]) -> dict[str, Any]:
        match body.get("command"):
            case "ADD":
                return {"reason": await gate.add(_sandbox(body))}
            case "DEL":
                gate.delete(_sandbox(body))
            case "CHECK":
                gate.check(_sandbox(body))
            case "STATUS":
                gate.status()
            case "GC":
                gate.keep_only({str(each.get("containerID")) for each in body.get("valid") or []})
            case other:
                raise BadRequest(f"the command is {other!r}: it takes ADD, DEL, CHECK, STATUS, GC")
        return {}


def _sandbox(body: dict[str, Any]) -> Sandbox:
    texts = [body.get(name) for name in ("container", "netns", "namespace", "name", "uid")]
    if not all(isinstance(text, str) for text in texts) or not texts[2] or not texts[3]:
        raise BadRequest(
            "container, netns, namespace, name and uid must be texts, and the pod must have a name"
        )
    container, netns, namespace, name, uid = map(str, texts)
    return Sandbox(container, netns, PodKey(namespace, name), uid)
