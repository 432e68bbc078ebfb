"""`/enroll` and `/unenroll`: a request becomes a wish, a refusal its own text (400)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.admin.server import BadRequest, Request, Response, as_json
from agent.enroll.enrolled_pod import EnrolmentRefused
from agent.enroll.enroller import Enroller
from agent.enroll.wish import PodKey, Where, Wish
from redirect.errors import RedirectError


@dataclass(frozen=True, slots=True)
class EnrollPage:
    enroller: Enroller

    async def __call__(self, request: Request) -> Response:
        body = request.json()
        try:
            wish = Wish(pod_of(body), Where(*(body.get(key) for key in ("netns", "pid", "ifname"))))
            keep = bool(body.get("keep_existing", False))
            return as_json(await self.enroller.enroll(wish, keep_existing=keep))
        except (EnrolmentRefused, RedirectError, OSError, ValueError) as error:
            raise BadRequest(str(error)) from error


@dataclass(frozen=True, slots=True)
class UnenrollPage:
    enroller: Enroller

    async def __call__(self, request: Request) -> Response:
        pod = pod_of(request.json())
        try:
            await self.enroller.unenroll(pod)
        except (EnrolmentRefused, RedirectError, OSError) as error:
            raise BadRequest(str(error)) from error
        return as_json({"unenrolled": str(pod)})


def pod_of(body: dict[str, Any]) -> PodKey:
    """The pod a request names. Raises BadRequest."""
    namespace, name = body.get("namespace"), body.get("name")
    if not isinstance(namespace, str) or not isinstance(name, str) or not namespace or not name:
        raise BadRequest("the request names no pod: namespace and name are needed")
    return PodKey(namespace, name)
