"""What becomes of a pod's DNS query: the mesh's own answer, one that is still good, or a question to whom it was for.

Nobody is asked but the server that the pod itself has chosen, in the pod's name (`dns_ports` over UDP, `dns_forward`
over TCP). Names of the mesh are `dns.mesh_names`'s. Answers over UDP and TCP differ in size alone, so both ends
(`dns_clients`) come here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple

from agent.dns import records
from agent.dns.cache import Bounded, Kept, kept
from agent.dns.mesh_names import MeshNames
from agent.dns.messages import NotAQuery, answer, failure, read
from agent.dns.question import Question
from agent.dns.records import MalformedMessage
from agent.model.address import IP, SocketAddress, is_nobodys
from agent.model.listener import DNS
from agent.model.workload import Workload
from agent.net.dial import Dialler
from agent.net.loop import Loop
from agent.net.sockets import SideSockets
from agent.proxy.dns_figures import DnsFigures, Labels, Refused, labels
from agent.proxy.dns_forward import TcpExchange
from agent.proxy.dns_ports import AskingPorts, UdpExchange
from agent.proxy.pods import LocalPods
from agent.state.snapshot import Snapshot
from agent.state.store import Store

log = logging.getLogger(__name__)

MOST_FORWARDED, MOST_OF_A_POD = 4096, 1024
"""Exchanges under way at once: of all, and of one pod (5,000 queries a second at a name server 200 ms away)."""
MOST_WAITING = 64
"""For one answer."""

Reply = Callable[[bytes], None]


class Asked(NamedTuple):
    """A query as it came, but for its number: whoever asks the same has the same answer."""

    client: IP
    server: IP
    over_tcp: bool
    query: bytes


class Ready(NamedTuple):
    """An answer that may be given again: `kept` from a name server, or the mesh's `message`.

    `state`: the number of the mesh state that does not know the name, where a name server does.
    """

    labels: Labels
    message: bytes = b""
    kept: Kept | None = None
    state: int = 0


class Waiting(NamedTuple):
    number: bytes
    reply: Reply


@dataclass(slots=True)
class UnderWay:
    """An exchange, and who waits for it."""

    question: Question
    labels: Labels
    since_s: float
    exchange: UdpExchange | TcpExchange | None
    waiting: list[Waiting]
    is_kept: bool = True
    """Its answer; not for another pod of that address."""


class DnsService:
    """One per worker. `own_addresses` are the proxy's; nobody is asked there, nor at an address that `is_nobodys`."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        pods: LocalPods,
        names: MeshNames,
        to_network: Dialler,
        net_side: SideSockets,
        own_addresses: Collection[IP],
        rng: Random,
        *,
        port: int = DNS.port,
        is_nobodys: Callable[[IP], bool] = is_nobodys,
    ) -> None:
        self.loop = loop
        self.figures = DnsFigures()
        self._store, self._pods, self._names = store, pods, names
        self._to_network = to_network
        self.asking_ports = AskingPorts(loop, net_side)
        self._own = frozenset(own_addresses)
        self._rng = rng
        self._port, self._is_nobodys = port, is_nobodys
        self._of: Snapshot | None = None
        """What the mesh's answers in `_mesh` follow from."""
        self._state = 0
        """Its number."""
        self._said: Bounded[Asked, Ready] = Bounded()
        self._mesh: Bounded[Asked, Ready] = Bounded()
        self._under_way: dict[Asked, UnderWay] = {}
        self._of_pod: dict[IP, int] = {}

    @property
    def forwarded_now(self) -> int:
        return len(self._under_way)

    def forget(self) -> None:
        """A pod is gone: its addresses may be another's next."""
        self._said.clear()
        self._mesh.clear()
        self.asking_ports.forget()
        for under_way in self._under_way.values():
            under_way.is_kept = False

    def take(self, client: IP, server: IP, query: bytes, reply: Reply, *, over_tcp: bool) -> bytes | None:
        """The answer to a pod's query, if there is one at once; else `reply` has it later, or nobody has."""
        asked = Asked(client, server, over_tcp, query[2:])
        snapshot = self._store.current
        if snapshot is not self._of:
            self._of = snapshot
            self._state += 1
            self._mesh.clear()
        ready = self._mesh.get(asked)
        if ready is not None:
            self.figures.requests[ready.labels] += 1
            return query[:2] + ready.message[2:]
        ready = self._said.get(asked)
        if ready is not None and ready.kept is not None:
            now_s = self.loop.now()
            if now_s < ready.kept.until_s and self._is_still_theirs(asked, ready, snapshot, query):
                self.figures.requests[ready.labels] += 1
                self.figures.cached += 1
                return ready.kept.numbered(query[:2], now_s)
            self._said.drop(asked)
        return self._new(asked, snapshot, query, reply)

    def _new(self, asked: Asked, snapshot: Snapshot, query: bytes, reply: Reply) -> bytes | None:
        try:
            question = read(query)
        except NotAQuery as error:
            self.figures.refused[Refused.UNREADABLE] += 1
            log.debug("%s sent what is no query: %s", asked.client, error)
            return error.answer
        except MalformedMessage:
            self.figures.refused[Refused.UNREADABLE] += 1
            return None
        client = self._client(snapshot, asked.client)
        said_of = self.figures.known(labels(question.kind, client, over_tcp=asked.over_tcp))
        self.figures.requests[said_of] += 1
        if client is None:
            self.figures.refused[Refused.UNKNOWN_POD] += 1
            return self._failed(None, question, records.SERVFAIL, "the control plane does not list the pod")
        if question.version:
            meaning = self._names.meaning(snapshot, client, question.name, question.version)
            if meaning is not None:
                addresses = list(meaning.addresses)
                self._rng.shuffle(addresses)
                message = answer(question, addresses, meaning.alias, over_tcp=asked.over_tcp)
                if len(addresses) <= 1:
                    # Several come in another order each time.
                    self._mesh.put(asked, Ready(said_of, message))
                self._tell(client, question, "success" if addresses else "no records")
                return message
        if asked.server in self._own or asked.server == asked.client or self._is_nobodys(asked.server):
            self.figures.refused[Refused.LOOP] += 1
            return self._failed(
                client, question, records.REFUSED, f"{asked.server} is no name server that it can have"
            )
        return self._forward(asked, client, question, said_of, query, reply)

    def _is_still_theirs(self, asked: Asked, ready: Ready, snapshot: Snapshot, query: bytes) -> bool:
        """Whether it is for name servers to say what is asked: the mesh may have come to know the name since."""
        if ready.state == self._state:
            return True
        question, client = read(query), self._client(snapshot, asked.client)
        if client is None:
            return False
        if question.version:
            meaning = self._names.meaning(snapshot, client, question.name, question.version)
            if meaning is not None:
                return False
        self._said.put(asked, ready._replace(state=self._state))
        return True

    def _client(self, snapshot: Snapshot, address: IP) -> Workload | None:
        pod = self._pods.at(address)
        return snapshot.local_workload(pod.namespace, pod.name, pod.service_account) if pod else None

    def _forward(
        self, asked: Asked, client: Workload, question: Question, said_of: Labels, query: bytes, reply: Reply
    ) -> bytes | None:
        under_way = self._under_way.get(asked)
        waiting = Waiting(query[:2], reply)
        if under_way is not None and len(under_way.waiting) < MOST_WAITING:
            under_way.waiting.append(waiting)
            return None
        count = self._of_pod.get(asked.client, 0)
        # No pod has more than is left: however few ask for much, somebody who asks for little finds room.
        if under_way is not None or count >= min(MOST_OF_A_POD, MOST_FORWARDED - len(self._under_way)):
            self.figures.refused[Refused.TOO_MANY] += 1
            return self._failed(client, question, records.SERVFAIL, "too many queries are under way")
        self.figures.forwarded[said_of] += 1
        self._tell(client, question, "forwarded")
        under_way = UnderWay(question, said_of, self.loop.now(), None, [waiting])
        self._under_way[asked] = under_way
        self._of_pod[asked.client] = count + 1
        try:
            self._ask(asked, query, under_way)
        except (OSError, MalformedMessage) as error:
            self._over(asked)
            self.figures.failed[said_of] += 1
            return self._failed(client, question, records.SERVFAIL, f"forwarding failed ({error})")
        return None

    def _ask(self, asked: Asked, query: bytes, under_way: UnderWay) -> None:
        ended = partial(self._ended, asked)
        server = SocketAddress(asked.server, self._port)
        if asked.over_tcp:
            dialled = under_way.exchange = TcpExchange(self.loop, query, ended)
            dialled.start(self._to_network, asked.client, server)
        else:
            under_way.exchange = self.asking_ports.ask(asked.client, server, query, ended)

    def _over(self, asked: Asked) -> UnderWay:
        left = self._of_pod[asked.client] - 1
        if left:
            self._of_pod[asked.client] = left
        else:
            del self._of_pod[asked.client]
        return self._under_way.pop(asked)

    def _ended(self, asked: Asked, response: bytes, error: str) -> None:
        under_way = self._over(asked)
        if error:
            self.figures.failed[under_way.labels] += 1
            log.debug("asking %s for %s: %s", asked.server, asked.client, error)
            message = failure(under_way.question, records.SERVFAIL)
        else:
            now_s = self.loop.now()
            self.figures.took(under_way.labels, now_s - under_way.since_s)
            # Whoever passes it on is not who has authority.
            message = response[:2] + bytes((response[2] & ~4,)) + response[3:]
            if under_way.is_kept:
                self._keep(asked, under_way.labels, message, now_s)
        for waiting in under_way.waiting:
            waiting.reply(waiting.number + message[2:])

    def _keep(self, asked: Asked, said_of: Labels, message: bytes, now_s: float) -> None:
        try:
            found = list(records.records(message))
        except MalformedMessage:
            return  # passed on as it is: whoever asked may judge it
        again = kept(message, found, now_s)
        if again is not None:
            self._said.put(asked, Ready(said_of, kept=again))

    def _failed(self, client: Workload | None, question: Question, code: int, why: str) -> bytes:
        self._tell(client, question, why)
        return failure(question, code)

    def _tell(self, client: Workload | None, question: Question, result: str) -> None:
        if log.isEnabledFor(logging.DEBUG):
            name = client.name if client else ""
            namespace = client.namespace if client else ""
            log.debug(
                'src.workload="%s" src.namespace="%s" query=%s domain=%s result="%s"',
                name,
                namespace,
                question.kind,
                question.name,
                result,
            )
