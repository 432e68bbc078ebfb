"""What is read from the API server again and again, without a process for each answer.

A kubectl takes a good part of a second where the machine is busy: what is measured by it would be its own start.
"""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from redirect.netns import entered
from tests.cluster.machine import Machine

SERVER, PORT = "192.168.77.1", 6443
TOKEN = "admin-token"
PATIENCE_S = 30.0


class Api:
    """Asked in the network of `control`, which has the server. `ca_file`: its authority's certificate."""

    def __init__(self, control: Machine, ca_file: Path) -> None:
        self._control, self._ca_file = control, ca_file

    def items(self, path: str, **selectors: str) -> list[dict[str, Any]]:
        """The objects below a path of the API. Raises OSError, http.client.HTTPException, ValueError."""
        tls = ssl.create_default_context(cafile=str(self._ca_file))
        connection = http.client.HTTPSConnection(SERVER, PORT, timeout=PATIENCE_S, context=tls)
        question = f"{path}?{urlencode(selectors)}" if selectors else path
        try:
            with entered(Path(f"/proc/{self._control.pid}/ns/net")):
                connection.connect()
            connection.request("GET", question, headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != http.client.OK:
                raise ValueError(f"GET {question}: {answer.status} {said[:200]!r}")
            return list(json.loads(said)["items"])
        finally:
            connection.close()
