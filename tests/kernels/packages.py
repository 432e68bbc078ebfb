"""Packages of any suite of Debian, by apt with a state of its own: nothing of this machine's is installed or changed.

The mirror is the one that its apt has. Debian's keyring vouches for the index, the pin for the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.kernels.table import META, Deb, Kernel

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OURS = ("linux-image-", "linux-binary-", "linux-modules-")
"""A kernel is one package, or (since 7) several."""


class NotToBeHad(Exception):
    """A package, or a program that is needed, is not to be had; the text says what to do."""


class Suite:
    """A suite of Debian, looked up in a directory of its own."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._directory = directory
        self._is_current = False

    def newest(self) -> tuple[Deb, ...]:
        """The packages of the kernel that the suite has now. Raises NotToBeHad."""
        self._update()
        found: dict[str, Deb] = {}
        wanted = [META]
        while wanted:
            name = wanted.pop()
            fields = self._show(name)
            if name != META:
                found[name] = Deb(name, fields["Version"], fields["SHA256"])
            wanted += [each for each in _named(fields.get("Depends", "")) if each not in found]
        if not found:
            raise NotToBeHad(f"{META} of {self.name} names no kernel")
        return tuple(found[name] for name in sorted(found))

    def download(self, deb: Deb, into: Path) -> Path:
        """The file of a package, whose sum is the pinned one. Raises NotToBeHad."""
        into.mkdir(parents=True, exist_ok=True)
        command = (
            "apt-get",
            "download",
            "-qq",
            "-o",
            "APT::Sandbox::User=root",
            f"{deb.package}={deb.version}",
        )
        # This machine's own apt may know it, and has its index already.
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
        if done.returncode:
            self._update()
            done = self._apt(*command, cwd=into)
        files = sorted(into.glob(f"{deb.package}_*.deb"))
        if done.returncode or not files:
            raise NotToBeHad(f"{deb.package} {deb.version} of {self.name}: {_last(done.stderr)}")
        found = hashlib.sha256(files[0].read_bytes()).hexdigest()
        if found != deb.sha256:
            raise NotToBeHad(
                f"{files[0].name} has SHA-256 {found}, not {deb.sha256}: it is not the pinned one"
            )
        return files[0]

    def _show(self, package: str) -> dict[str, str]:
        done = self._apt("apt-cache", "show", "--no-all-versions", package)
        fields = dict(re.findall(r"^([\w-]+): (.*)$", done.stdout, re.MULTILINE))
        if "SHA256" not in fields:
            raise NotToBeHad(f"{self.name} has no package {package}: {_last(done.stderr)}")
        return fields

    def _update(self) -> None:
        if self._is_current:
            return
        for part in ("etc", "state/lists/partial", "cache/archives/partial"):
            (self._directory / part).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        (self._directory / "etc" / "suite.sources").write_text(
            f"Types: deb\nURIs: {mirror()}\nSuites: {self.name}\nComponents: main\nSigned-By: {KEYRING}\n"
        )
        done = self._apt("apt-get", "update", "-qq")
        if done.returncode:
            raise NotToBeHad(f"the index of {self.name} cannot be fetched: {_last(done.stderr)}")
        self._is_current = True

    def _apt(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        here = self._directory
        options = {
            "Dir::Etc::sourcelist": here / "none",
            "Dir::Etc::sourceparts": here / "etc",
            "Dir::Etc::preferencesparts": here / "none",
            "Dir::State": here / "state",
            "Dir::State::status": here / "status",
            "Dir::Cache": here / "cache",
            "Acquire::Languages": "none",
            "Acquire::Check-Valid-Until": "false",
            "APT::Sandbox::User": "root",
        }
        given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        return subprocess.run(
            [*command, *given],
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )


def fetched(kernel: Kernel, suite: Suite, into: Path) -> tuple[tuple[Deb, ...], list[Path], str]:
    """The packages of a kernel and their files; in words, why they are not the pinned ones. Raises NotToBeHad."""
    try:
        return kernel.debs, [suite.download(deb, into) for deb in kernel.debs], ""
    except NotToBeHad as error:
        why = str(error)
    debs = suite.newest()
    if debs == kernel.debs:
        raise NotToBeHad(why)
    return debs, [suite.download(deb, into) for deb in debs], f"in the pinned one's place: {why}"


def mirror() -> str:
    """Where this machine's apt takes Debian from. Raises NotToBeHad."""
    done = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE)",
            "Created-By: Packages",
            "Origin: Debian",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        uri, _, release = line.partition(" ")
        if "security" not in uri and "security" not in release:
            return uri
    raise NotToBeHad("apt has no mirror of Debian: `apt-get update` first, with Debian among its sources")


def _named(depends: str) -> Iterator[str]:
    for part in depends.split(","):
        name = re.split(r"[ (:|]", part.strip())[0]
        if name.startswith(OURS):
            yield name


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "apt says nothing"


def missing(programs: Sequence[str]) -> list[str]:
    """Which of these programs are not on the PATH."""
    path = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]
    return [name for name in programs if not any(os.access(f"{place}/{name}", os.X_OK) for place in path)]
