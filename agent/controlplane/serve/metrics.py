"""`/metrics` of the control plane: what it serves, to whom, and how much of the manifests it could not use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from agent.admin.server import Request, Response
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.serve.status_value import Status
from agent.controlplane.translate.resources import ADDRESS_TYPE, AUTHORIZATION_TYPE
from agent.telemetry import exposition, families
from agent.telemetry.metrics import Figures, Sample
from agent.telemetry.totals import Totals


def samples(status: Status) -> Iterable[Sample]:
    """The figures of a status; what is refused is counted by document, not by mistake."""
    yield families.PLANE_SERVING, (), int(status.is_serving)
    yield families.PLANE_RESOURCES, ("address",), status.addresses
    yield families.PLANE_RESOURCES, ("policy",), status.policies
    documents = {(row["file"], row["document"], row["object"]): row["outcome"] for row in status.errors}
    refused = Counter(documents.values())
    for effect in EFFECTS:
        yield families.PLANE_REFUSED, (effect,), refused[effect]
    yield families.PLANE_WITHOUT_EFFECT, (), len(status.no_effect)
    yield families.PLANE_WARNINGS, (), len(status.warnings) - len(status.no_effect)
    for node, count in status.streams.items():
        yield families.PLANE_STREAMS, (node,), count
    nacks: Counter[tuple[str, str]] = Counter()
    for nack in status.nacks:
        # A node may ask for, and refuse, types of any name: they must not become labels.
        url = nack.type_url if nack.type_url in (ADDRESS_TYPE, AUTHORIZATION_TYPE) else "other"
        nacks[nack.node, url] += len(nack.names)
    for labels, count in nacks.items():
        yield families.PLANE_NACKS, labels, count


EFFECTS = ("kept", "closed", "left_out", "waiting")
"""In place of a refused document: its last good form, a policy that closes its targets, nothing; or nothing at all is
served before it is mended."""


def metrics_page(board: StatusBoard) -> Callable[[Request], Awaitable[Response]]:
    figures = Figures()
    figures.ask(lambda: samples(board.status))

    async def page(request: Request) -> Response:
        content_type = exposition.content_type([request.headers.get("accept", "")])
        body = exposition.expose(Totals().snapshot(figures), content_type)
        return Response(body, content_type=content_type, vary=("accept",))

    return page
