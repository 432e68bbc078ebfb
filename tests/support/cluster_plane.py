"""A control plane whose objects, callers and authority are a cluster's: all of it real but the API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.controlplane.app import Options, serve
from agent.controlplane.kubeapi.grounds import Way
from tests.support import kube
from tests.support.controlplane import LIMIT_S, Plane

NS = "ztun-system"
AGENT = f"system:serviceaccount:{NS}:ztun-agent"


def review(pod: str, uid: str, user: str = AGENT, audience: str = "istio-ca") -> dict[str, Any]:
    extra = {f"authentication.kubernetes.io/pod-{k}": [v] for k, v in (("name", pod), ("uid", uid)) if v}
    return {"authenticated": True, "audiences": [audience], "user": {"username": user, "extra": extra}}


@asynccontextmanager
async def running(tmp_path: Path, api: kube.FakeApi) -> AsyncIterator[Plane]:
    stop, started = asyncio.Event(), asyncio.Future[str]()
    options = Options(
        manifests=tmp_path / "state" / "api",
        state_dir=tmp_path / "state",
        listen="127.0.0.1:0",
        cluster=Way(lambda: api.access, NS, f"{NS}/ztun-agent"),
    )
    serving = asyncio.create_task(serve(options, stop=stop, started=started.set_result))
    try:
        done, _ = await asyncio.wait((serving, started), timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        assert done, "nothing is served"
        if serving.done():
            serving.result()
        (tmp_path / "state" / "root.pem").write_text(
            api.get("configmaps", "istio-ca-root-cert", NS)["data"]["root-cert.pem"]
        )
        yield Plane(SimpleNamespace(address=started.result()), tmp_path, tmp_path / "state")  # type: ignore[arg-type]
    finally:
        stop.set()
        await serving
