"""A directory on disk: what of it is read, what is named as passed over, and what outlives a restart."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent.controlplane.read.directory import ManifestDirectory, Reading
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.refused import Outcome
from agent.controlplane.state_dir import StateDirectory, StateError
from tests.support.controlplane import NAMESPACE, deny, pod

WEB = pod("web-0", "node-a", "10.10.0.5")
DENY = deny("d")
BROKEN = DENY.replace("action", "acton")


class Place:
    """A directory of manifests, and the state directory of its control plane."""

    def __init__(self, root: Path) -> None:
        self.root, self.state = root / "manifests", root / "state"
        self.root.mkdir(exist_ok=True)

    def write(self, **texts: str) -> None:
        """Files by name; `__` is a slash."""
        for name, text in texts.items():
            path = self.root / (name.replace("__", "/") + ".yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def start(self) -> ManifestDirectory:
        return ManifestDirectory(self.root, StateDirectory(self.state))

    def restarted(self) -> Reading:
        directory = self.start()
        directory.read()
        return directory.reading


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def served(reading: Reading) -> list[str]:
    return [str(made.meta) for made in reading.standing.served()]


def test_subdirectories_and_any_case_of_the_ending_are_read(place: Place) -> None:
    place.write(sub__deep__a=WEB)
    (place.root / "b.YAML").write_text(NAMESPACE)
    (place.root / "sub" / "c.Json").write_text(
        '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}'
    )
    (place.root / "link").symlink_to(place.root / "sub" / "deep")
    reading = place.restarted()
    assert sorted(reading.standing.objects) == ["b.YAML", "link/a.yaml", "sub/c.Json", "sub/deep/a.yaml"]
    assert sorted(served(reading)) == ["Namespace demo", "Node n", "Pod demo/web-0"]


def test_a_change_in_a_subdirectory_is_seen_and_its_errors_name_the_path(place: Place) -> None:
    place.write(sub__a=WEB)
    directory = place.start()
    assert directory.read() is not None and directory.read() is None
    place.write(sub__a=WEB.replace("podIPs", "podIPz"))
    reading = directory.read()
    assert reading is not None and str(reading.standing.errors[0]).startswith("sub/a.yaml:6: document 1")
    assert served(reading) == ["Pod demo/web-0"]
    (place.root / "sub" / "a.yaml").unlink()
    reading = directory.read()
    assert reading is not None and served(reading) == []


def test_what_is_passed_over_is_named(place: Place) -> None:
    place.write(a=WEB)
    for name in ("policy.yaml.bak", "deny.yam", ".hidden.yaml", ".a.yaml.swp"):
        (place.root / name).write_text(DENY)
    (place.root / "round").symlink_to(".")
    os.mkfifo(place.root / "pipe.yaml")
    reading = place.restarted()
    assert [line.partition(":")[0] for line in reading.passed_over] == [
        ".hidden.yaml",
        "deny.yam",
        "pipe.yaml",
        "policy.yaml.bak",
        "round",
    ]
    assert "it does not end in .yaml, .yml, .json" in reading.passed_over[1].replace(
        "its name does", "it does"
    )
    assert served(reading) == ["Pod demo/web-0"]


def test_a_link_whose_target_is_away_keeps_what_it_led_to(place: Place) -> None:
    """As behind a mount that is gone for a while; nobody has deleted the policy."""
    place.write(a=WEB)
    elsewhere = place.root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "d.yaml").write_text(DENY)
    (place.root / "d.yaml").symlink_to(elsewhere / "d.yaml")
    (place.root / "sub").symlink_to(elsewhere)
    directory = place.start()
    directory.read()
    elsewhere.rename(elsewhere.with_name("away"))
    reading = directory.read()
    assert reading is not None and set(served(reading)) == {"Pod demo/web-0", "AuthorizationPolicy demo/d"}
    assert [e.file for e in reading.standing.errors] == ["d.yaml", "sub"]
    assert "a link to nothing; remove the link" in str(reading.standing.errors[0])
    (place.root / "d.yaml").unlink()
    (place.root / "sub").unlink()
    reading = directory.read()
    assert reading is not None and served(reading) == ["Pod demo/web-0"] and not reading.standing.errors


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a\xffb.yaml", r"a\xffb.yaml"),
        (b"a\nb.yaml", r"a\nb.yaml"),
        (b"\x1b[2J.yaml", r"\x1b[2J.yaml"),
        (b"d\xff", r"d\xff"),
    ],
)
def test_a_name_that_is_no_text_is_refused_and_shown_in_plain(place: Place, name: bytes, shown: str) -> None:
    place.write(a=WEB)
    directory = place.start()
    directory.read()
    Path(os.fsdecode(bytes(place.root) + b"/" + name)).write_text(DENY)
    reading = directory.read()
    assert reading is not None and served(reading) == ["Pod demo/web-0"]
    assert (
        str(reading.standing.errors[0]) == f"{shown}:1: cannot be read: its name is no plain text; rename it"
    )
    assert served(place.restarted()) == ["Pod demo/web-0"]


def test_a_directory_that_is_away_is_an_error_and_takes_nothing_away(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(a=WEB, b=DENY)
    everything = ["Pod demo/web-0", "AuthorizationPolicy demo/d"]
    directory = place.start()
    directory.read()
    away = place.root.with_name("away")
    place.root.rename(away)
    reading = directory.read()
    assert reading is not None and directory.read() is None and served(reading) == everything
    assert str(reading.standing.errors[0]) == f".:1: cannot be read: {place.root}: No such file or directory"
    away.rename(place.root)
    reading = directory.read()
    assert reading is not None and served(reading) == everything and not reading.standing.errors

    def closed(path: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", closed)  # root may read everything
    assert served(place.restarted()) == everything


def test_a_file_that_is_far_too_large_is_not_taken_into_memory(place: Place) -> None:
    place.write(a=WEB)
    with open(place.root / "log.yaml", "wb") as file:
        file.truncate(2**40)
    [error] = place.restarted().standing.errors
    assert "log.yaml:1: larger than" in str(error)


def test_files_that_were_put_together_keep_no_marks_of_byte_order(place: Place) -> None:
    (place.root / "a.yaml").write_bytes(
        b"\xef\xbb\xbf" + WEB.encode() + b"\xef\xbb\xbf---\n\xef\xbb\xbf" + NAMESPACE.encode()
    )
    assert sorted(served(place.restarted())) == ["Namespace demo", "Pod demo/web-0"]


def test_the_links_of_a_config_map_volume_are_followed_once(place: Place) -> None:
    data = place.root / "..2026_01_01"
    data.mkdir()
    (data / "a.yaml").write_text(WEB)
    (place.root / "..data").symlink_to(data.name)
    (place.root / "a.yaml").symlink_to("..data/a.yaml")
    reading = place.restarted()
    assert served(reading) == ["Pod demo/web-0"] and not reading.standing.remarks and not reading.passed_over


def test_a_subdirectory_that_cannot_be_read_keeps_what_it_held(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(a=WEB, sub__b=DENY)
    directory = place.start()
    directory.read()
    scandir = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)  # root may read everything
    reading = directory.read()
    assert reading is not None and served(reading) == ["Pod demo/web-0", "AuthorizationPolicy demo/d"]
    assert str(reading.standing.errors[0]) == "sub:1: cannot be read: Permission denied"
    monkeypatch.undo()
    reading = directory.read()
    assert reading is not None and not reading.standing.errors


@pytest.mark.parametrize("text", ["", "  \n", "\ufffe", "x" * 10])
def test_a_restart_beside_a_file_that_cannot_be_read_serves_what_it_held(place: Place, text: str) -> None:
    place.write(a=WEB, b=DENY)
    before = served(place.restarted())
    (place.root / "b.yaml").write_bytes(text.encode("utf-16"))
    reading = place.restarted()
    assert served(reading) == before and reading.is_complete and reading.standing.errors


def test_a_restart_keeps_the_last_good_form_of_what_is_refused(place: Place) -> None:
    """Through several readings and restarts, while its file changes around it."""
    place.write(a=WEB + DENY)
    place.restarted()
    place.write(a=WEB + BROKEN)
    directory = place.start()
    directory.read()
    place.write(a=WEB.replace("10.10.0.5", "10.10.0.6") + "---\n" + NAMESPACE + BROKEN)
    directory.read()
    for _ in range(2):
        reading = place.restarted()
        [policy] = collect(reading.standing.served()).policies
        assert [r.outcome for r in reading.standing.refused] == [Outcome.KEPT]
        assert policy.action == "DENY" and policy.meta.place.line == 8 and policy.meta.place.document == 2
        assert str(collect(reading.standing.served()).pods[0].ips[0]) == "10.10.0.6"
    place.write(a=WEB)
    assert served(place.restarted()) == ["Pod demo/web-0"]


@pytest.mark.parametrize("later", [False, True])
def test_a_restart_neither_opens_what_was_closed_nor_closes_what_was_left_out(
    place: Place, later: bool
) -> None:
    place.write(a=WEB)
    if later:
        place.restarted()
    place.write(b=BROKEN, c=deny("e").replace("namespace", "namepsace"))
    before = served(place.restarted())
    assert len(before) == (1 if later else 3)
    (place.root / "a.yaml").touch()
    assert served(place.restarted()) == served(place.restarted()) == before


def test_what_a_version_before_this_one_served_is_closed_if_it_is_refused_now(place: Place) -> None:
    """It was served as something else than it says; nobody knows its good form."""
    place.state.mkdir()
    texts = {"a.yaml": WEB + BROKEN}
    (place.state / "manifests.json").write_text(json.dumps(texts))
    place.write(a=WEB + BROKEN)
    reading = place.restarted()
    assert [r.outcome for r in reading.standing.refused] == [Outcome.CLOSED]
    assert served(reading) == ["Pod demo/web-0", "AuthorizationPolicy demo/d"]


@pytest.mark.parametrize("saved", ["{", "[]", '{"a": 1}', '{"version": 9}', '{"version": 2, "files": {}}'])
def test_damaged_memory_is_said(place: Place, saved: str) -> None:
    place.state.mkdir()
    (place.state / "manifests.json").write_text(saved)
    with pytest.raises(StateError, match=r"manifests\.json is damaged"):
        place.start()
