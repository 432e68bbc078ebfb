"""From the environment of a stock ztunnel to options of `ztun agent`, and what to say about the rest.

Pure: what it needs of the machine is handed in. `cli.proxy` asks it and runs the agent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent import config
from agent.ztunnel.draft import Draft, Surroundings
from agent.ztunnel.proxy_config import ProxyConfig
from agent.ztunnel.rows import ROOT_CERT, ROWS, TOKEN, ZDS_SOCKET, Row, set_workers
from agent.ztunnel.values import Refused

MESH_CONFIG = "./etc/istio/config/mesh"
PROXY_CONFIG = "PROXY_CONFIG"
ISTIOD = "istiod.istio-system.svc:15012"
LOCALHOST = "localhost:15012"
START_PATIENCE_S = 600
"""A DaemonSet that surges starts the next agent beside this one, which waits and takes over."""
FAMILY = {row.name.partition("_")[0] for row in ROWS} | {"ISTIO", "ZTUN", "PILOT"}
"""First words of variables that somebody means for this program."""
LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""What Kubernetes tells each container about a Service, behind the Service's name."""


class CannotServe(Exception):
    """Variables that are refused; the text names each with its remedy, in one line."""


@dataclass(frozen=True, slots=True)
class Translation:
    """`options`: texts by field of Config. `notes`: a line for each variable that does nothing."""

    options: Mapping[str, str]
    notes: tuple[str, ...]


def translate(environ: Mapping[str, str], around: Surroundings) -> Translation:
    """Options for an environment; those of `ZTUN_*` variables are not among them. Raises CannotServe."""
    refused: list[str] = []
    below = _below(environ, around, refused)
    draft = Draft(
        {**below.environ, **environ},
        around,
        admin_port=below.admin_port,
        stats_port=below.stats_port,
        concurrency=below.concurrency,
    )
    for key in sorted(below.ignored):
        draft.note(
            f"{PROXY_CONFIG}.{key}", "of a ProxyConfig the addresses, ports, concurrency and metadata count"
        )
    _set_defaults(draft)
    for name, value in draft.environ.items():
        row = row_of(name)
        try:
            if row is not None:
                row.apply(draft, name, value)
        except Refused as error:
            refused.append(f"{name}: {error}" if row and row.hidden else f"{name}={value!r}: {error}")
    for name in unknown(environ):
        draft.note(name, "nothing here knows it: is it misspelt?")
    try:
        if draft.concurrency is not None:
            set_workers(draft)
        draft.set_servers()
    except Refused as error:
        refused.append(f"{PROXY_CONFIG}: {error}")
    if not draft.options.get("node"):
        refused.append("NODE_NAME: it is missing: give it spec.nodeName by a fieldRef")
    if refused:
        raise CannotServe("; ".join(refused))
    if draft.metadata:
        draft.set("node_metadata", json.dumps(draft.metadata, sort_keys=True))
    notes = tuple(f"{name} has no effect: {why}" for name, why in draft.notes.items())
    return Translation(draft.options, notes)


def row_of(name: str) -> Row | None:
    """What the table has for a variable; a whole name goes before a beginning."""
    return next((row for row in ROWS if row.is_of(name)), None)


def unknown(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that are meant for a program like this, and that nothing here knows."""
    services = [name.removesuffix("_SERVICE_HOST") for name in environ if name.endswith("_SERVICE_HOST")]
    ours = {f"ZTUN_{name.upper()}" for name in config.options()}
    for name in environ:
        is_link = any(name.startswith(each) and LINK.fullmatch(name[len(each) :]) for each in services)
        first, has_more, _ = name.partition("_")
        is_meant = has_more and first in FAMILY and not is_link
        if is_meant and row_of(name) is None and name not in ours | {PROXY_CONFIG}:
            yield name


def _below(environ: Mapping[str, str], around: Surroundings, refused: list[str]) -> ProxyConfig:
    """What is said less strongly than by a variable of its own."""
    found = ProxyConfig()
    texts = (
        (MESH_CONFIG, around.mesh_config, "defaultConfig"),
        (PROXY_CONFIG, environ.get(PROXY_CONFIG), ""),
    )
    for name, text, key in texts:
        try:
            if text is not None:
                found.read(text, key)
        except Refused as error:
            refused.append(f"{name}: {error}")
    return found


def _set_defaults(draft: Draft) -> None:
    """As ztunnel has them, where they are others than ours."""
    istiod = ISTIOD if "KUBERNETES_SERVICE_HOST" in draft.environ else LOCALHOST
    draft.options |= {
        "xds_address": istiod,
        "ca_address": istiod,
        # The host of the address, as a name in the certificate.
        "server_name": "",
        "root_cert": ROOT_CERT,
        # istiod reads an annotation of the pod, which istio-cni writes.
        "report_enrolled": "false",
        "start_patience_s": str(START_PATIENCE_S),
    }
    if draft.environ.get("ZTUN_POD_SOURCE", "command") == "command":
        draft.options["zds_socket"] = ZDS_SOCKET
    if draft.around.exists(TOKEN):
        draft.options["token_file"] = TOKEN
    else:
        draft.note(TOKEN, "there is no such file, so no token is shown to the control plane")
