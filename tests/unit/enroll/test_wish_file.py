"""The file of wishes: whole, private, and for one boot where it must be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.enroll.treatment import Asked
from agent.enroll.wish import Binding, PodInstance, PodKey, WantedBy, Where, Wish
from agent.enroll.wish_file import WishesDamaged, WishesNewer, WishFile, forget
from agent.model.address import parse_ip
from redirect.netns import NamespaceId

HOME, AWAY = NamespaceId(4026532001, 77), NamespaceId(4026532002, 78)
WISHES = (
    Wish(PodKey("demo", "a"), Where(netns="/run/netns/a"), WantedBy.COMMAND, 12.5, HOME),
    Wish(
        PodKey("demo", "b"),
        Where(pid=7, started=991),
        since_s=13.0,
        namespace=AWAY,
        bound=Binding(AWAY, "web", "cluster.local"),
    ),
    Wish(PodKey("demo", "c"), Where(ifname="veth1"), bound=Binding(HOME, "web", "cluster.local")),
    Wish(
        PodKey("demo", "d"),
        Where(pod=PodInstance("uid-d", (parse_ip("10.0.0.4"), parse_ip("fd00::4")))),
        WantedBy.KUBERNETES,
        uid="uid-d",
    ),
    Wish(
        PodKey("demo", "e"),
        Where(handed=AWAY),
        WantedBy.ISTIO_CNI,
        namespace=AWAY,
        uid="uid-e",
        service_account="web",
    ),
)

ENTRY = (
    '{"version": 3, "boot_id": "one", "wishes": '
    '[{"since": 1.5, "where": {"pid": 7}, "namespace": "d", "name": "p", "wanted_by": "ztun enroll"}]}'
)


@pytest.fixture
def boot_id(tmp_path: Path) -> Path:
    path = tmp_path / "boot_id"
    path.write_text("one\n")
    return path


def test_wishes_come_back_as_they_were(tmp_path: Path, boot_id: Path) -> None:
    file = WishFile(tmp_path, boot_id)
    assert file.load() == {}
    file.save(WISHES)
    assert tuple(WishFile(tmp_path, boot_id).load().values()) == WISHES
    file.save(WISHES[:1])
    assert tuple(file.load().values()) == WISHES[:1]


def test_what_others_do_to_the_file_is_seen(tmp_path: Path, boot_id: Path) -> None:
    file, path = WishFile(tmp_path, boot_id), tmp_path / "wishes.json"
    path.write_text("of an agent before")
    assert file.is_as_left, "nothing was read yet"
    path.unlink()
    file.load()
    assert file.is_as_left
    file.save(WISHES)
    assert file.is_as_left
    whole = path.read_bytes()
    for others in (
        path.unlink,
        lambda: path.write_bytes(whole),
        lambda: path.write_bytes(whole.replace(b"demo", b"omed")),
        lambda: path.replace(tmp_path / "away"),
    ):
        others()
        assert not file.is_as_left
        file.save(WISHES)
        assert file.is_as_left


def test_the_file_is_roots_alone_and_nothing_is_left_beside_it(tmp_path: Path, boot_id: Path) -> None:
    WishFile(tmp_path, boot_id).save(WISHES)
    assert [path.name for path in tmp_path.iterdir() if path != boot_id] == ["wishes.json"]
    assert (tmp_path / "wishes.json").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, boot_id: Path) -> None:
    file = WishFile(tmp_path, boot_id)
    file.save(WISHES)
    (tmp_path / "wishes.draft").mkdir()
    with pytest.raises(IsADirectoryError):
        file.save(())
    assert tuple(file.load().values()) == WISHES


def test_after_a_boot_processes_and_namespaces_mean_nothing(tmp_path: Path, boot_id: Path) -> None:
    WishFile(tmp_path, boot_id).save(WISHES)
    boot_id.write_text("two\n")
    found = WishFile(tmp_path, boot_id).load()
    assert [(str(key), wish.where) for key, wish in found.items()] == [
        ("demo/a", Where(netns="/run/netns/a")),
        ("demo/c", Where(ifname="veth1")),
        ("demo/d", WISHES[3].where),
    ]
    assert all(wish.namespace is None and wish.bound is None for wish in found.values())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"version": 3, "boot_id": "one", "wishes": [',
        "\xff\xfe not UTF-8",
        "[" * 100_000,
        '{"version": 0, "boot_id": "one", "wishes": []}',
        '{"version": "9", "boot_id": "one", "wishes": []}',
        '{"version": 3, "wishes": []}',
        '{"version": 1, "boot_id": "one", "wishes": [{"namespace": "demo"}]}',
        '{"version": 1, "boot_id": "one", "wishes": [{"namespace": "d", "name": 3, "where": {"pid": 1}}]}',
        '{"version": 1, "boot_id": "one", "wishes": [{"namespace": "d", "name": "p", "where": {}}]}',
        ENTRY.replace("7", '"7"'),
        ENTRY.replace("pid", "netns"),
        ENTRY.replace("1.5", "1e999"),
        ENTRY.replace("1.5", '"x"'),
    ],
    ids=lambda content: content[:100],
)
def test_a_damaged_file_is_put_aside_as_it_is(tmp_path: Path, boot_id: Path, content: str) -> None:
    path, file = tmp_path / "wishes.json", WishFile(tmp_path, boot_id)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(WishesDamaged, match=r"wishes.json is damaged \(") as caught:
        file.load()
    assert "\n" not in str(caught.value)
    assert not file.aside
    aside = file.put_aside()
    assert file.aside == (aside,) == (tmp_path / "wishes.damaged",) and file.is_as_left
    assert aside.read_bytes() == content.encode("latin-1")
    assert WishFile(tmp_path, boot_id).load() == {}
    file.save(WISHES)
    assert tuple(WishFile(tmp_path, boot_id).load().values()) == WISHES
    assert forget(tmp_path) and not file.aside and not path.exists() and not forget(tmp_path)


def test_later_damage_leaves_what_was_put_aside_before_up_to_a_limit(tmp_path: Path, boot_id: Path) -> None:
    """The first one may be the only one that names pods which only people wanted."""
    path, file = tmp_path / "wishes.json", WishFile(tmp_path, boot_id)
    path.mkdir()
    (path / "inside").write_text("first")
    file.put_aside()
    for content in ("second", "third"):
        path.write_text(content)
        file.put_aside()
    assert [each.name for each in file.aside] == ["wishes.damaged", "wishes.damaged.1", "wishes.damaged.2"]
    newest, older, oldest = file.aside
    assert (newest.read_text(), older.read_text(), (oldest / "inside").read_text()) == (
        "third",
        "second",
        "first",
    )
    older.unlink()
    path.write_text("fourth")
    file.put_aside()
    assert newest.read_text() == "fourth" and older.read_text() == "third" and oldest.is_dir(), (
        "there was room"
    )
    path.write_text("fifth")
    file.put_aside()
    assert [each.read_text() for each in file.aside] == ["fifth", "fourth", "third"]
    path.mkdir()
    assert forget(tmp_path) and not path.exists() and not file.aside


def test_what_the_damaged_ones_are_made_of_is_whole(tmp_path: Path, boot_id: Path) -> None:
    (tmp_path / "wishes.json").write_text(ENTRY)
    assert WishFile(tmp_path, boot_id).load().keys() == {PodKey("d", "p")}


def test_a_newer_file_is_no_damaged_one_and_stays(tmp_path: Path, boot_id: Path) -> None:
    """Put aside, it would be lost to the newer ztun that is started again after this one was by mistake."""
    path, content = tmp_path / "wishes.json", '{"version": 9, "boot_id": "one", "wishes": "in another way"}'
    path.write_text(content)
    with pytest.raises(WishesNewer, match=r"of a newer ztun .*format is 9.* up to 3.*: start that one"):
        WishFile(tmp_path, boot_id).load()
    assert path.read_text() == content


def test_no_key_is_written(tmp_path: Path, boot_id: Path) -> None:
    WishFile(tmp_path, boot_id).save(WISHES)
    rows = json.loads((tmp_path / "wishes.json").read_text())["wishes"]
    assert {key for row in rows for key in row} == {
        "namespace",
        "name",
        "where",
        "wanted_by",
        "since",
        "netns",
        "bound",
        "uid",
        "service_account",
    }


@pytest.mark.parametrize("asked", [True, False, None])
def test_whether_connects_are_honest_is_kept(tmp_path: Path, boot_id: Path, asked: bool | None) -> None:
    wish = replace(WISHES[0], asked=Asked(asked))
    WishFile(tmp_path, boot_id).save([wish])
    assert tuple(WishFile(tmp_path, boot_id).load().values()) == (wish,)
    boot_id.write_text("two\n")
    (found,) = WishFile(tmp_path, boot_id).load().values()
    assert found.asked.is_honest is asked


@pytest.mark.parametrize("field", ["honest_connect", "bypass_inbound", "dns_capture"])
def test_a_wish_with_a_switch_that_is_neither_on_nor_off_is_damaged(
    tmp_path: Path, boot_id: Path, field: str
) -> None:
    WishFile(tmp_path, boot_id).save([replace(WISHES[0], asked=Asked(True, True, True))])
    path = tmp_path / "wishes.json"
    path.write_text(path.read_text().replace(f'"{field}": true', f'"{field}": "yes"'))
    with pytest.raises(WishesDamaged, match=f"{field} is 'yes'"):
        WishFile(tmp_path, boot_id).load()


@pytest.mark.parametrize("asked", [True, False])
def test_whether_connections_go_past_the_proxy_is_kept(tmp_path: Path, boot_id: Path, asked: bool) -> None:
    wish = replace(WISHES[0], asked=Asked(is_bypassed=asked))
    WishFile(tmp_path, boot_id).save([wish])
    assert tuple(WishFile(tmp_path, boot_id).load().values()) == (wish,)


@pytest.mark.parametrize("asked", [None, True, False])
def test_whether_dns_is_captured_is_kept(tmp_path: Path, boot_id: Path, asked: bool | None) -> None:
    wish = replace(WISHES[0], asked=Asked(is_dns_captured=asked))
    WishFile(tmp_path, boot_id).save([wish])
    assert tuple(WishFile(tmp_path, boot_id).load().values()) == (wish,)
