"""What Istio's validation refuses in its own kinds: an error in a manifest, a doubt where an API server let it pass."""

from __future__ import annotations

from agent.controlplane.read.fields import Field


class Doubts:
    """`texts`: what of a stored object does not do what it seems to say, each with its field."""

    def __init__(self, stored: bool) -> None:
        self._stored = stored
        self.texts: list[str] = []

    def add(self, field: Field, problem: str) -> None:
        if not self._stored:
            raise field.error(problem)
        self.texts.append(f"{field.path}: {problem}")
