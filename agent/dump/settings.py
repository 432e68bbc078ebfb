"""What this agent runs by, under ztunnel's names for it (`config` and `version` of its `/config_dump`). Pure.

A field that ztunnel has and nothing here is like is null, or the value that says what happens here. All of our own
options are in `ztun`, as texts, but for PEM that was given in place of a path: that is said and not shown.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from agent import FORM, VERSION, config
from agent.config import Config
from agent.model.listener import DNS, HBONE, LISTENERS, OUTBOUND, PLAINTEXT, SOCKS5_PORT, Listener

Row = dict[str, Any]
INLINE = "(PEM, given in place of a path)"
KEEPALIVE = {
    "keepaliveTime": {"secs": 180, "nanos": 0},
    "keepaliveInterval": {"secs": 180, "nanos": 0},
    "keepaliveRetries": 9,
    "keepaliveEnabled": True,
    "userTimeoutEnabled": False,
}


def version_row(settings: Config) -> Row:
    """No Rust here: what would be said of it is said of Python. The version of Istio is the one istiod is told."""
    return {
        "version": VERSION,
        "gitRevision": "unknown",
        "rustVersion": f"none, Python {'.'.join(map(str, sys.version_info[:3]))}",
        "buildProfile": FORM.word,
        "buildStatus": "unknown",
        "istioVersion": json.loads(settings.node_metadata or "{}").get("ISTIO_VERSION", VERSION),
        "cryptoProvider": "openssl",
    }


def config_row(settings: Config) -> Row:
    return {
        "proxy": True,
        "dnsProxy": True,
        "windowSize": settings.stream_window_bytes,
        "connectionWindowSize": settings.connection_window_bytes,
        "frameSize": settings.frame_bytes,
        "poolMaxStreamsPerConn": settings.pool_max_streams,
        "poolUnusedReleaseTimeout": duration(settings.pool_idle_s),
        "socks5Addr": f"169.254.77.1:{SOCKS5_PORT}" if settings.socks5 else None,
        "adminAddr": settings.admin_address,
        "statsAddr": settings.metrics_address,
        "readinessAddr": settings.readiness_address,
        "inboundAddr": _anywhere(HBONE),
        "inboundPlaintextAddr": _anywhere(PLAINTEXT),
        "outboundAddr": _anywhere(OUTBOUND),
        "dnsProxyAddr": f"[::]:{DNS.port}",
        "illegalPorts": sorted(listener.port for listener in LISTENERS),
        "network": settings.network,
        "localNode": settings.node,
        "proxyMode": "Shared",
        "proxyWorkloadInformation": None,
        "clusterId": settings.cluster_id,
        "clusterDomain": settings.cluster_domain,
        "caAddress": settings.ca_address or settings.xds_address,
        "caRootCert": _root(settings.ca_root_cert or settings.root_cert),
        "altCaHostname": settings.server_name or None,
        "xdsAddress": settings.xds_address,
        "xdsRootCert": _root(settings.root_cert),
        "altXdsHostname": settings.server_name or None,
        "preferedServiceNamespace": settings.dns_preferred_namespace or None,
        "secretTtl": duration(settings.secret_ttl_s),
        "xdsOnDemand": settings.on_demand,
        "fakeCa": False,
        "fakeSelfInbound": False,
        "selfTerminationDeadline": duration(settings.drain_deadline_s),
        "proxyMetadata": json.loads(settings.node_metadata or "{}"),
        "numWorkerThreads": settings.worker_count,
        "requireOriginalSource": True,
        "inpodUds": settings.zds_socket or None,
        "packetMark": None,
        "socketConfig": KEEPALIVE,
        "xdsHeaders": [],
        "caHeaders": [],
        "localhostAppTunnel": False,
        "ipv6Enabled": True,
        "crlPath": settings.crl_path or None,
        "enableEnhancedBaggage": True,
    }


def own_row(settings: Config) -> Row:
    """Every option of `ztun agent` by its name."""
    return {
        name: INLINE if _is_pem(text) else text for name, text in sorted(config.as_texts(settings).items())
    }


def duration(seconds: float) -> dict[str, int]:
    """As Rust writes one."""
    nanos = round(seconds * 1_000_000_000)
    return {"secs": nanos // 1_000_000_000, "nanos": nanos % 1_000_000_000}


def _anywhere(listener: Listener) -> str:
    return f"[::]:{listener.port}"


def _root(text: str) -> str | None:
    return INLINE if _is_pem(text) else text or None


def _is_pem(text: str) -> bool:
    return "-----BEGIN" in text
