"""The fields that `ztun maps` shows of each map's entries, in their order: of a map without entries nothing else tells.

`agent.cli.pinned` makes the rows; a lab's test holds each of them against this.
"""

from __future__ import annotations

FLOW = "source sport destination dport hook"
FIELDS = {
    name: tuple(fields.split())
    for name, fields in {
        "pods": "address flags ifindex mtu_bytes mss_bytes pod_mac hop_mac",
        "ifaces": "ifindex flags addresses mac",
        "conf": (
            "key pod_side_ifindex net_side_ifindex pod_side_nsid net_side_nsid net_side_mac is_dns_open owners takers "
            "is_plaintext_by_ports allowed_encapsulations stranger_every_ns stranger_burst host_cgroup"
        ),
        "hostips": "address",
        "hostflows": f"{FLOW} ifindex at_s",
        "passthru": f"{FLOW} until_s",
        "captures": "ifindex outbound inbound",
        "owners": "ifindex owner",
        "neighbours": "ifindex address mac is_permanent is_used",
        "wanted": "ifindex address",
        "openings": "ifindex until_s since_s who reason",
        "open_until": "key until_s",
        "rates": "ifindex outbound_due_s inbound_due_s dns_due_s",
        "strangers": "ifindex address due_s",
        "members": "address until_s",
        "prefiltered": "address ifindex set samples_due_s",
        "denials": "set port source is_denied packets",
        "rings": "owner ring",
        "takers": "slot owner listener",
        "turns": "counter number",
        "waiting": f"{FLOW} ifindex at_s",
        "drafts": "",
        "seen": "",
        "tracing": "key until_s lost ifindex own far is_ends_only",
        "trace_ring": "key ring",
        "stats": "program reason packets",
        "socks": "slot listener filled",
    }.items()
}
"""By the map's name. Where pods are asked for, those with an `ifindex` have one more, `pod`."""
