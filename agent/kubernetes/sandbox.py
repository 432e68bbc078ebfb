"""What a runtime says of a pod it is about to start, and that it must not. Known where no Kubernetes is followed."""

from __future__ import annotations

from dataclasses import dataclass

from agent.enroll.wish import PodKey


class NotAdmitted(Exception):
    """The sandbox must not start; the text is for the pod's events."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the runtime says. `uid` is empty where the runtime does not tell it."""

    container: str
    netns: str
    pod: PodKey
    uid: str = ""
