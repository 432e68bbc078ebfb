"""Who is calling, and what a caller may have: decided apart from any gRPC object.

A call carries `authorization: Bearer TOKEN`; the token decides the node. A node may have certificates for the
identities of pods that run on it, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import Enum

from agent.controlplane.read.inventory import Inventory
from agent.model.identity import Identity, IdentityError

BEARER = "bearer "


class Code(Enum):
    """The gRPC status of a refusal; names as in gRPC."""

    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    UNAVAILABLE = "UNAVAILABLE"


class Refused(Exception):
    """A call that is answered with a status. UNAUTHENTICATED: who are you; PERMISSION_DENIED: not for you."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


async def calling_node(
    metadata: Iterable[tuple[str, str | bytes]],
    node_of: Callable[[str], Awaitable[str | None]],
    cluster_id: str,
) -> str:
    """The node of the caller's token. Raises Refused."""
    headers = {key: value for key, value in metadata if isinstance(value, str)}
    said = headers.get("authorization", "")
    if not said.lower().startswith(BEARER):
        raise Refused(
            Code.UNAUTHENTICATED,
            "no node token: make one with `ztun control-plane token --node NODE` and give it to the agent",
        )
    node = await node_of(said[len(BEARER) :].strip())
    if node is None:
        raise Refused(
            Code.UNAUTHENTICATED,
            "unknown node token: it was replaced, or is for another control plane; issue a new one",
        )
    cluster = headers.get("clusterid", "")
    if cluster and cluster != cluster_id:
        raise Refused(
            Code.UNAUTHENTICATED, f"node {node!r} says it is of cluster {cluster!r}; this is {cluster_id!r}"
        )
    return node


def granted_identity(node: str, asked: str, inventory: Inventory, trust_domain: str) -> Identity:
    """The identity a node may have a certificate for. Raises Refused, naming node and identity."""
    if not asked:
        raise Refused(
            Code.INVALID_ARGUMENT,
            "metadata ImpersonatedIdentity is missing: a node has no identity of its own here",
        )
    try:
        identity = Identity.parse(asked)
    except IdentityError as error:
        raise Refused(Code.INVALID_ARGUMENT, f"node {node!r}: {error}") from error
    if identity.trust_domain != trust_domain:
        raise Refused(
            Code.PERMISSION_DENIED,
            f"node {node!r} may not have {asked!r}: the trust domain here is {trust_domain!r}",
        )
    who = (identity.namespace, identity.service_account)
    for pod in inventory.pods:
        if pod.node == node and pod.is_live and (pod.meta.namespace, pod.service_account) == who:
            return identity
    raise Refused(
        Code.PERMISSION_DENIED,
        f"node {node!r} may not have {asked!r}: no pod of that service account runs there",
    )
