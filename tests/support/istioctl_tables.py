"""The tables of `istioctl ztunnel-config`, made of a dump as istioctl makes them: which keys fill which column.

Written after `istioctl/pkg/writer/ztunnel/configdump`; `tests/vectors/istioctl` has what istioctl itself printed.
A key that is read and must not be missing is read by `[...]`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

Table = list[dict[str, str]]
Dump = dict[str, Any]


def workloads(dump: Dump, _: datetime) -> Table:
    rows = [
        {
            "NAMESPACE": each["namespace"],
            "POD NAME": each["name"],
            "ADDRESS": ",".join(each["workloadIps"]) or each["hostname"],
            "NODE": each.get("node", ""),
            "WAYPOINT": _waypoint(each.get("waypoint"), dump),
            "PROTOCOL": each["protocol"],
        }
        for each in dump["workloads"]
    ]
    return sorted(rows, key=lambda row: (f"{row['NAMESPACE']}.{row['POD NAME']}", row["NODE"]))


def services(dump: Dump, _: datetime) -> Table:
    healthy = {each["uid"] for each in dump["workloads"] if each["status"] == "Healthy"}
    return [
        {
            "NAMESPACE": each["namespace"],
            "SERVICE NAME": each["name"],
            "SERVICE VIP": ",".join(vip.partition("/")[2] for vip in each["vips"]),
            "WAYPOINT": _waypoint(each.get("waypoint"), dump),
            "ENDPOINTS": f"{sum(e['workloadUid'] in healthy for e in each['endpoints'].values())}"
            f"/{len(each['endpoints'])}",
        }
        for each in sorted(dump["services"], key=lambda s: (s["namespace"], s["name"], s["hostname"]))
    ]


def policies(dump: Dump, _: datetime) -> Table:
    return [
        {
            "NAMESPACE": each["namespace"],
            "POLICY NAME": each["name"],
            "ACTION": each["action"],
            "SCOPE": each["scope"],
        }
        for each in sorted(dump["policies"], key=lambda p: (p["namespace"], p["name"]))
    ]


def certificates(dump: Dump, now: datetime) -> Table:
    rows = []
    for each in dump["certificates"]:
        state = "Unavailable" if "Unavailable" in each["state"] else each["state"]
        parts = [
            *(("Intermediate" if number else "Leaf", part) for number, part in enumerate(each["certChain"])),
            *(("Root", part) for part in each["rootCerts"] if each["certChain"]),
        ]
        rows += [
            _certificate(each["identity"], kind, state, part, now) for kind, part in parts or [("NA", {})]
        ]
    return rows


def _certificate(identity: str, kind: str, state: str, part: Dump, now: datetime) -> dict[str, str]:
    is_valid = bool(part) and (
        datetime.fromisoformat(part["validFrom"]) < now < datetime.fromisoformat(part["expirationTime"])
    )
    return {
        "CERTIFICATE NAME": identity,
        "TYPE": kind,
        "STATUS": state,
        "VALID CERT": str(is_valid).lower(),
        "SERIAL NUMBER": f"{int(part['serialNumber'], 10):x}" if part else "NA",
        "NOT AFTER": part.get("expirationTime", "NA"),
        "NOT BEFORE": part.get("validFrom", "NA"),
    }


def connections(dump: Dump, _: datetime) -> Table:
    rows = []
    named = _names(dump)
    states = dump["workloadState"].values()
    for each in sorted(states, key=lambda s: (s["info"]["namespace"], s["info"]["name"])):
        found = each.get("connections", {"inbound": [], "outbound": []})
        for direction, local, remote, target in (
            ("Inbound", "actualDst", "src", None),
            ("Outbound", "src", "actualDst", "originalDst"),
        ):
            rows += [
                {
                    "WORKLOAD": f"{each['info']['name']}.{each['info']['namespace']}",
                    "DIRECTION": direction,
                    "LOCAL": named(row[local]),
                    "REMOTE": named(row[remote]),
                    "REMOTE TARGET": named(row[target]) if target else row["originalDst"] or "",
                    "PROTOCOL": row["protocol"],
                }
                for row in found[direction.lower()]
            ]
    return rows


def _names(dump: Dump) -> Callable[[str], str]:
    """Of the first address of each Service and workload, as istioctl knows them."""
    services = {
        (each["vips"] or ["/None"])[0].partition("/")[2]: each["hostname"] for each in dump["services"]
    }
    pods = {
        (each["workloadIps"] or ["None"])[0]: f"{each['name']}.{each['namespace']}"
        for each in dump["workloads"]
    }

    def named(address: str) -> str:
        host, _, port = address.rpartition(":")
        name = services.get(host.strip("[]")) or pods.get(host.strip("[]"))
        return f"{name}:{port}" if name else address

    return named


def _waypoint(reference: Dump | None, dump: Dump) -> str:
    if reference is None:
        return "None"
    for each in dump["services"]:
        if reference["destination"] in (f"{each['namespace']}/{each['hostname']}", *each["vips"]):
            return str(each["name"])
    return "NA"


TABLES: dict[str, Callable[[Dump, datetime], Table]] = {
    "workloads": workloads,
    "services": services,
    "policies": policies,
    "certificates": certificates,
    "connections": connections,
}
"""By the sub-command of istioctl."""


def printed(text: str) -> Table:
    """A table as istioctl has printed it: columns begin where their names do, with two blanks or more before them."""
    head, *lines = [line for line in text.splitlines() if line.strip()]
    names = _columns(head)
    ends = [start for _, start in names[1:]] + [None]
    return [
        {name: line[start:end].strip() for (name, start), end in zip(names, ends, strict=True)}
        for line in lines
    ]


def _columns(head: str) -> list[tuple[str, int]]:
    known = {name for names in COLUMNS.values() for name in names}
    found = sorted((head.find(name), -len(name), name) for name in known if name in head)
    taken: list[tuple[str, int]] = []
    end = 0
    for start, _, name in found:
        if start >= end:
            taken.append((name, start))
            end = start + len(name)
    return taken


COLUMNS = {
    "workloads": ("NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"),
    "services": ("NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"),
    "policies": ("NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"),
    "certificates": (
        "CERTIFICATE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
    ),
    "connections": ("WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL"),
}
