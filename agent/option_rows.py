"""The form of a row of the table of options, and its sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agent.option_kinds import Kind


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table. The flag is `--name-with-dashes`, the variable `ZTUN_NAME`."""

    section: str
    kind: Kind
    default: str
    help: str
    """A sentence."""
    of_control: bool = False
    """No worker reads it, so that workers of before serve on where it changes. Without the mark they hand over."""


def option(section: str, kind: Kind, default: str, help: str, *, of_control: bool = False) -> Any:
    """A field of Config with its row; the default goes through the same parser as a flag."""
    row = Option(section, kind, default, help, of_control)
    return field(default_factory=lambda: kind.parse(default), metadata={"option": row})


node_option = partial(option, "This node")
control_option = partial(option, "Control plane")
traffic_option = partial(option, "Traffic")
kubernetes_option = partial(option, "Kubernetes", of_control=True)
server_option = partial(option, "Servers and logs")
