"""What a worker is told: everything when it comes, and each change to all of them.

Resources of the mesh, enrolled pods, certificates with their keys. Nothing here decides; it hears of changes from
those who do (`mesh_state` broadcasts resources itself, because it waits for them to be applied).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent import channel
from agent.channel import Message
from agent.dns.host_names import LooksUp
from agent.enroll.enrolled_pod import EnrolledPod
from agent.identity.bundle import Issued
from agent.identity.keeper import Keeper
from agent.identity.revocation_file import ReadList
from agent.mesh_state import MeshState
from agent.model.identity import Identity


class Briefing:
    """Speaks to all workers by `broadcast`, to one that has just come by what `brief` is given."""

    def __init__(
        self, mesh: MeshState, keeper: Keeper, names: LooksUp, broadcast: Callable[[Message], None]
    ) -> None:
        self._mesh, self._keeper, self._names, self._broadcast = mesh, keeper, names, broadcast
        self._pods: tuple[EnrolledPod, ...] = ()
        self._dns_clients: channel.DnsClients | None = None
        """Once there were any."""
        self.takes_questions = False
        """Workers may ask for what the state lacks."""
        self.revoked: channel.Revoked | None = None
        """The revocation lists in force, once some were read."""
        self.log_levels: channel.LogLevels | None = None
        """By which workers log; None: as they did at their start."""

    def brief(self, send: Callable[[Message], None], *, is_new: bool = True) -> None:
        """Tell a worker that has just come everything there is; policies before pods, pods before secrets.

        `send` leaves out what its build does not know. `is_new`: it knows when a certificate ends before its leaf.
        """
        send(channel.TakesChanges())
        if self.log_levels is not None:
            send(self.log_levels)
        if self.revoked is not None:
            send(self.revoked)
        if self.takes_questions:
            send(channel.TakesQuestions())
        self._names.brief(send)
        self._mesh.brief(send)
        send(pods_message(self._pods))
        if self._dns_clients is not None:
            send(self._dns_clients)
        for held in self._keeper.held():
            issued = self._keeper.get(held.identity)
            if issued is not None:
                send(secret_message(issued, is_new=is_new))

    def enrolled(self, pods: Iterable[EnrolledPod]) -> None:
        """These pods are served."""
        self._pods = tuple(pods)
        self._broadcast(pods_message(self._pods))
        clients = [str(ip) for pod in self._pods if pod.place.is_dns_captured for ip in pod.addresses]
        if clients or self._dns_clients is not None:
            self._dns_clients = channel.DnsClients(clients)
            self._broadcast(self._dns_clients)

    def issued(self, tell: Callable[[Message], None], issued: Issued) -> None:
        """A new certificate; `tell` speaks to the workers that know when it ends before its leaf."""
        self._broadcast(secret_message(issued, is_new=False))
        if issued.ended_by:
            tell(secret_message(issued))

    def revoke(self, lists: Iterable[ReadList]) -> None:
        """Other revocation lists are in force."""
        self.revoked = revoked_message(lists)
        self._broadcast(self.revoked)

    def forgotten(self, identity: Identity) -> None:
        self._broadcast(channel.ForgetSecret(str(identity)))


def pods_message(pods: Iterable[EnrolledPod]) -> channel.Pods:
    return channel.Pods(
        [(pod.namespace, pod.name, pod.service_account, [str(ip) for ip in pod.addresses]) for pod in pods]
    )


def revoked_message(lists: Iterable[ReadList]) -> channel.Revoked:
    return channel.Revoked([(each.revoked.der, " ".join(each.revoked.serials)) for each in lists])


def secret_message(issued: Issued, *, is_new: bool = True) -> channel.Secret:
    """A certificate with its key: DER in memory, over the private channel, nowhere else.

    `is_new`: for a worker from protocol 1 on. Others go by the leaf, and hear of an earlier end when it is there.
    """
    return channel.Secret(
        identity=str(issued.identity),
        key=issued.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        chain=[certificate.public_bytes(Encoding.DER) for certificate in issued.chain],
        roots=[certificate.public_bytes(Encoding.DER) for certificate in issued.roots],
        ends=issued.not_after if is_new and issued.ended_by else None,
    )
