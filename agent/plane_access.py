"""How this node presents itself to its control plane, and what it asks of it, as the options say."""

from __future__ import annotations

import json
from pathlib import Path

from agent import VERSION
from agent.config import Config
from agent.rpc.endpoint import Endpoint
from agent.wire.xds_delta import XdsDelta, make_node


def endpoint(settings: Config, address: str, roots: str) -> Endpoint:
    """Where a control plane or a CA is; without an address and roots of its own it is where discovery is."""
    return Endpoint(
        address or settings.xds_address,
        roots=roots or settings.root_cert,
        server_name=settings.server_name,
        token_file=Path(settings.token_file) if settings.token_file else None,
        cluster_id=settings.cluster_id,
    )


def discovery(settings: Config) -> XdsDelta:
    """The subscription of this node."""
    node = make_node(
        ip=settings.instance_ip,
        pod=settings.pod_name,
        namespace=settings.pod_namespace,
        node_name=settings.node,
        metadata={
            "CLUSTER_ID": settings.cluster_id,
            "ISTIO_VERSION": VERSION,
            **json.loads(settings.node_metadata or "{}"),
        },
    )
    return XdsDelta(node, is_on_demand=settings.on_demand)
