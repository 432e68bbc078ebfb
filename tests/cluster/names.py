"""Names of the mesh, asked by a pod whose DNS is captured. Each fact returns its line, or raises."""

from __future__ import annotations

import socket
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rdatatype

from redirect.netns import entered
from tests.cluster.kubernetes import wait
from tests.cluster.stage import Stage
from tests.cluster.traffic import ask, pid_of

ANNOTATION = "ambient.istio.io/dns-capture"
NAME_SERVER = "10.96.0.10"
"""Where pods of a cluster ask; here nobody is there."""
PATIENCE_S = 2.0


def a_service_by_its_name(stage: Stage) -> str:
    """One pod alone asks for it, while it runs; then it is left alone again."""
    client, other, name = stage.uid("client"), stage.uid("stranger"), "server.demo.svc.cluster.local"
    assert not resolved(client, name), "somebody answers before anybody should"
    annotate(stage, f"{ANNOTATION}=true")
    try:
        took_s = wait("the name is answered", lambda: resolved(client, name), 30)
        addresses = resolved(client, name)
        assert addresses == [stage.cluster_ip("server")], addresses
        assert resolved(client, name, over_tcp=True) == addresses, "not over TCP"
        assert not resolved(other, name), "a pod without the annotation is answered, too"
        said = ask(client, addresses[0], 80)
        assert said.startswith("server-"), said
    finally:
        annotate(stage, f"{ANNOTATION}-")
    wait("it is left alone again", lambda: not resolved(client, name), 30)
    return f"{ANNOTATION} on a running pod: after {took_s:.1f} s {name} is {addresses[0]}, for that pod alone"


def annotate(stage: Stage, what: str) -> None:
    stage.cluster.kubectl("-n", "demo", "annotate", "pod", str(stage.pod("client")["metadata"]["name"]), what)


def resolved(uid: str, name: str, *, over_tcp: bool = False) -> list[str]:
    """The IPv4 addresses that a pod is told; none: nobody answers."""
    question = dns.message.make_query(name, dns.rdatatype.A)
    with entered(Path(f"/proc/{pid_of(uid)}/ns/net")):
        kind = socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM
        sock = socket.socket(socket.AF_INET, kind)
    with sock:
        try:
            sock.settimeout(PATIENCE_S)
            sock.connect((NAME_SERVER, 53))
            if over_tcp:
                answer = dns.query.tcp(question, NAME_SERVER, PATIENCE_S, sock=sock)
            else:
                answer = dns.query.udp(question, NAME_SERVER, PATIENCE_S, sock=sock)
        except (OSError, EOFError, dns.exception.DNSException):
            return []
    return [str(each) for rows in answer.answer for each in rows if rows.rdtype == dns.rdatatype.A]
