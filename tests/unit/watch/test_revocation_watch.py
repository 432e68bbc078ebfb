"""The file of revocation lists: what is told when it changes, and what stays in force when it cannot be used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509

from agent.identity.revocation_file import ReadList, read_lists
from agent.start_error import StartError
from agent.watch import revocation_watch
from agent.watch.revocation_watch import SETTLED_S, RevocationWatch
from tests.support.certs import HOUR, TestCA, crl_pem

CA = TestCA()
ONE, TWO = (CA.issue(f"spiffe://cluster.local/ns/a/sa/{n}").leaf for n in "ab")


class Watched:
    """A watch of a file, with what it told: the serials in force each time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[set[str]] = []
        self.later_s = 0.0
        self.known = frozenset[x509.Certificate]()
        self.watch = RevocationWatch(
            str(path), self._tell, lambda: time.time() + self.later_s, lambda: self.known
        )

    def _tell(self, lists: Sequence[ReadList]) -> None:
        self.told.append({serial for each in lists for serial in each.revoked.serials})

    def look(self) -> set[str]:
        self.watch.look()
        return self.told[-1] if self.told else set()

    def troubles(self) -> str:
        return "; ".join(map(str, asyncio.run(self.watch())))

    def figures(self) -> dict[str, float]:
        return {family.name: value for family, _, value in self.watch.samples()}


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    path = tmp_path / "crl.pem"
    path.write_bytes(crl_pem(CA.revoking(ONE)))
    made = Watched(path)
    made.watch.begin()
    return made


def serial(*certificates: object) -> set[str]:
    return {f"{each.serial_number:x}" for each in certificates}  # type: ignore[attr-defined]


def test_it_is_told_at_the_start_and_when_it_changes_and_not_else(watched: Watched) -> None:
    assert watched.told == [serial(ONE)]
    watched.look()
    assert len(watched.told) == 1
    watched.path.write_bytes(crl_pem(CA.revoking(ONE, TWO)))
    assert watched.look() == serial(ONE, TWO)
    assert watched.troubles() == ""
    assert watched.figures() == {
        "ztun_crl_usable": 1, "ztun_crl_lists": 1, "ztun_crl_lists_expired": 0, "ztun_crl_lists_unsigned": 0,
        "ztun_crl_revoked_certificates": 2,
    }  # fmt: skip


def test_a_link_that_is_turned_as_kubernetes_does(tmp_path: Path) -> None:
    for name, certificate in (("..1", ONE), ("..2", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "crl.pem").write_bytes(crl_pem(CA.revoking(certificate)))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "crl.pem").symlink_to("..data/crl.pem")
    watched = Watched(tmp_path / "crl.pem")
    watched.watch.begin()
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert watched.look() == serial(TWO)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "why"), [(cut, "cut off"), (Path.unlink, "No such file"), (directory, "directory")]
)
def test_what_was_read_last_stays_and_it_is_said_until_it_is_mended(
    watched: Watched, spoil: object, why: str
) -> None:
    spoil(watched.path)  # type: ignore[operator]
    assert watched.look() == watched.look() == serial(ONE)
    assert why in watched.troubles() and "mend the file" in watched.troubles()
    assert watched.figures()["ztun_crl_usable"] == 0
    if watched.path.is_dir():
        watched.path.rmdir()
    watched.path.write_bytes(crl_pem(CA.revoking(TWO)))
    assert watched.look() == serial(TWO) and watched.troubles() == ""
    assert watched.figures()["ztun_crl_usable"] == 1


def test_emptied_for_a_moment_revokes_on_and_emptied_for_good_does_not(watched: Watched) -> None:
    watched.path.write_bytes(b"")
    assert watched.look() == serial(ONE)
    watched.path.write_bytes(crl_pem(CA.revoking(ONE, TWO)))
    assert watched.look() == serial(ONE, TWO)
    watched.path.write_bytes(b"")
    assert watched.look() == serial(ONE, TWO)
    assert watched.look() == set()


def test_one_that_is_not_there_at_the_start_may_come(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "crl.pem")
    watched.watch.begin()
    assert "not there" in watched.troubles() and watched.told == []
    watched.path.write_bytes(crl_pem(CA.revoking(ONE)))
    assert watched.look() == serial(ONE) and watched.troubles() == ""


def test_a_bad_one_at_the_start_keeps_the_agent_from_starting(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "crl.pem")
    watched.path.write_bytes(crl_pem(CA.revoking(ONE))[:-30])
    with pytest.raises(StartError, match=r"--crl-path: .*cut off.*leave the option out"):
        watched.watch.begin()


def test_one_that_is_out_of_date_is_said_and_stays(watched: Watched) -> None:
    watched.later_s = 2 * HOUR.total_seconds()
    assert watched.look() == serial(ONE)
    assert "out of date" in watched.troubles() and watched.figures()["ztun_crl_lists_expired"] == 1


def test_without_an_option_there_is_nothing() -> None:
    watch = RevocationWatch("", lambda _: None, time.time)
    watch.begin()
    asyncio.run(watch.run())
    assert asyncio.run(watch()) == [] and list(watch.samples()) == []


def test_a_list_that_nobody_known_has_signed_is_named_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be in force, and revoke nobody."""
    other = TestCA()
    watched.look()
    assert watched.figures()["ztun_crl_lists_unsigned"] == 0, "no authority is known yet"
    watched.known = frozenset({CA.root})
    watched.look()
    assert watched.figures()["ztun_crl_lists_unsigned"] == 0
    watched.path.write_bytes(crl_pem(CA.revoking(ONE), other.revoking(TWO)))
    for _ in range(2):
        watched.look()
    assert watched.figures()["ztun_crl_lists_unsigned"] == 1
    assert len([each for each in caplog.messages if "signed by no authority" in each]) == 1
    watched.known |= {other.root}
    watched.look()
    assert watched.figures()["ztun_crl_lists_unsigned"] == 0


def test_what_cannot_be_used_is_read_again_when_it_changes(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one takes a good part of a second."""
    reads: list[int] = []

    def reading(content: bytes) -> tuple[ReadList, ...]:
        reads.append(len(content))
        return read_lists(content)

    monkeypatch.setattr(revocation_watch, "read_lists", reading)
    cut(watched.path)
    watched.look()
    watched.look()
    assert len(reads) == 2, "it may be written just now"
    watched.later_s = SETTLED_S + 1
    for _ in range(5):
        watched.look()
    assert len(reads) == 3 and "cut off" in watched.troubles()
    watched.path.write_bytes(crl_pem(CA.revoking(TWO)))
    assert watched.look() == serial(TWO) and watched.troubles() == ""
