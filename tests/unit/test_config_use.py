"""Every option does something: whoever builds the parts reads it."""

from __future__ import annotations

import ast
from pathlib import Path

from agent import config

AGENT = Path(config.__file__).parent
HOLDERS = {"config", "settings", "_settings", "_config", "said"}
"""Names under which the parts hold the Config."""


def read_fields() -> set[str]:
    """Attributes read of a Config in the agent. `directory` and `worker_count` stand for what they are made of."""
    found: set[str] = set()
    for path in AGENT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                holder = node.value
                name = holder.attr if isinstance(holder, ast.Attribute) else getattr(holder, "id", "")
                if name in HOLDERS or (path.name == "config.py" and name == "self"):
                    found.add(node.attr)
    return found


def test_every_option_is_read() -> None:
    assert config.options().keys() - read_fields() == set()
