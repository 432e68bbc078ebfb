"""`/enroll` and `/unenroll`: a request becomes a wish, a refusal its own text (400).

A pod that is captured and closed but not served yet is 202 with what is missing, `waiting`: its wish stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from agent.admin.server import BadRequest, Request, Response, as_json
from agent.enroll.enrolled_pod import EnrolmentRefused
from agent.enroll.enroller import Enroller, StillWaiting
from agent.enroll.treatment import Asked
from agent.enroll.wish import PodKey, Where, Wish
from agent.fd_limit import told
from redirect.errors import RedirectError

WAIT_S = 5.0
"""How long a request waits for its pod to be served when it does not say."""


@dataclass(frozen=True, slots=True)
class EnrollPage:
    enroller: Enroller

    async def __call__(self, request: Request) -> Response:
        body = request.json()
        try:
            wish = Wish(pod_of(body), where_of(body), asked=Asked(is_honest=honesty_of(body)))
            keep_for_s = float(body.get("keep_for_s", math.inf if body.get("keep_existing", False) else 0))
            wait_s = float(body.get("wait_s", WAIT_S))
            is_cleaned = bool(body.get("clean", False))
            return as_json(
                await self.enroller.enroll(wish, keep_for_s=keep_for_s, wait_s=wait_s, is_cleaned=is_cleaned)
            )
        except StillWaiting as waiting:
            return as_json({"waiting": str(waiting)}, 202)
        except (EnrolmentRefused, RedirectError, OSError, ValueError) as error:
            raise BadRequest(told(error)) from error


@dataclass(frozen=True, slots=True)
class UnenrollPage:
    enroller: Enroller

    async def __call__(self, request: Request) -> Response:
        body = request.json()
        pod = pod_of(body)
        try:
            left = await self.enroller.unenroll(pod, float(body.get("drain_s", 0)))
        except (EnrolmentRefused, RedirectError, OSError, ValueError) as error:
            raise BadRequest(told(error)) from error
        return as_json({"unenrolled": str(pod), "reset": left})


def where_of(body: dict[str, Any]) -> Where:
    """Where the request says its pod is. Raises BadRequest, or ValueError for more than one place."""
    for key, kind in (("netns", str), ("pid", int), ("ifname", str)):
        if not isinstance(body.get(key), kind | None):
            raise BadRequest(f"{key} of the request is {body[key]!r}, not a {kind.__name__}")
    return Where(netns=body.get("netns"), pid=body.get("pid"), ifname=body.get("ifname"))


def honesty_of(body: dict[str, Any]) -> bool | None:
    """Whether the pod's connections are to be held. Raises BadRequest."""
    asked = body.get("honest_connect")
    if not isinstance(asked, bool | None):
        raise BadRequest(f"honest_connect of the request is {asked!r}, neither true nor false")
    return asked


def pod_of(body: dict[str, Any]) -> PodKey:
    """The pod a request names. Raises BadRequest."""
    namespace, name = body.get("namespace"), body.get("name")
    if not isinstance(namespace, str) or not isinstance(name, str) or not namespace or not name:
        raise BadRequest("the request names no pod: namespace and name are needed")
    return PodKey(namespace, name)
