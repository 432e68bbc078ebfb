"""A container image out of Debian's busybox-static alone: what a pod's sandbox runs. No registry, no engine."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
PAUSE = "localhost/pause:1"


STAY = ("/bin/busybox", "sleep", "2147483647")


def write_pause(path: Path, entrypoint: Sequence[str] = STAY) -> None:
    """A docker archive of one layer whose only work is to stay."""
    layer = _tar({"bin/busybox": BUSYBOX.read_bytes()})
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": entrypoint},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    index = json.dumps([{"Config": name, "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]).encode()
    path.write_bytes(_tar({name: config, "layer.tar": layer, "manifest.json": index}))


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()
