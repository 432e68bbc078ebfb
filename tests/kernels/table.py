"""Which kernels the suite is run on: a line of Debian's each, with the packages that were pinned for it.

`pins.json` has name, version and SHA-256 of every package; `scripts/kernels --pin` writes it anew from what the mirror
has. A line that moves (what is newest) is pinned as the others are, and its pin is soon gone from the mirror: then what
is there now is taken in its place, by the index that Debian signed, and that is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

PINS = Path(__file__).parent / "pins.json"
RUNNING = "running"
"""The kernel of this machine, in the table beside the others."""
META = "linux-image-amd64"


@dataclass(frozen=True, slots=True)
class Deb:
    """One package, as the index of its suite has it."""

    package: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A line of the table. `suite` of Debian has it as its `linux-image-amd64`."""

    name: str
    suite: str
    debs: tuple[Deb, ...] = ()

    @property
    def release(self) -> str:
        """What `uname -r` says there."""
        return release_of(self.debs)


def release_of(debs: tuple[Deb, ...]) -> str:
    image = next(deb for deb in debs if deb.package.startswith("linux-image-"))
    return image.package.removeprefix("linux-image-")


LINES = (("5.10", "bullseye"), ("6.1", "bookworm"), ("6.12", "trixie"), ("newest", "sid"))


def kernels(path: Path = PINS) -> Mapping[str, Kernel]:
    """Every line by its name, as pinned. Raises KeyError for a line without a pin."""
    pins = json.loads(path.read_text())
    return {
        name: Kernel(name, suite, tuple(Deb(**deb) for deb in pins[name]["debs"])) for name, suite in LINES
    }


def write(found: Mapping[str, tuple[Deb, ...]], path: Path = PINS) -> None:
    text = {name: {"suite": suite, "debs": [asdict(deb) for deb in found[name]]} for name, suite in LINES}
    path.write_text(json.dumps(text, indent=2) + "\n")
