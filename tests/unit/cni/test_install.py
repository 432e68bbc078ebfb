"""The plugin on the node: what is written where, what stays as it is, and what is put right while others write too."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent import pod_sources
from agent.cli.cni import cni
from agent.cni import conflist, keeper
from agent.cni import install as cni_install
from agent.cni.conflist import NoConfiguration, chained, first, parsed, unchained
from agent.cni.install import Installation
from agent.cni.keeper import PluginKeeper, installation_of
from agent.config import build

OURS = {"socket": "/run/ztun/ztun/agent.sock"}
ENTRY = {"type": "ztun-cni", **OURS}
PTP = {"type": "ptp", "ipMasq": True, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]]}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


def listed(*plugins: dict[str, Any], **more: Any) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": list(plugins)} | more)


def plugins(text: str) -> list[Any]:
    found: list[Any] = json.loads(text)["plugins"]
    return found


def test_ours_comes_last_and_everything_else_stays() -> None:
    text = chained(listed(PTP, PORTMAP, disableCheck=True), OURS)
    assert json.loads(text) == json.loads(listed(PTP, PORTMAP, ENTRY, disableCheck=True))
    assert chained(text, OURS) is text, "what is right is not written again"
    assert json.loads(unchained(text)) == json.loads(listed(PTP, PORTMAP, disableCheck=True))


def test_an_older_entry_is_replaced_and_one_in_the_middle_moved() -> None:
    text = listed(PTP, {"type": "ztun-cni", "socket": "/old"}, PORTMAP)
    assert plugins(chained(text, OURS)) == [PTP, PORTMAP, ENTRY]


def test_a_single_plugin_becomes_a_list() -> None:
    text = json.dumps({"cniVersion": "0.4.0", "name": "net", **PTP})
    assert json.loads(chained(text, OURS)) == {"cniVersion": "0.4.0", "name": "net", "plugins": [PTP, ENTRY]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[]", "no name"),
        ('{"plugins": [{"type": "ptp"}]}', "no name"),
        ('{"name": "n"}', "neither plugins nor a type"),
        ('{"name": "n", "plugins": []}', "no list of objects"),
        ('{"name": "n", "plugins": [{}]}', "no list of objects"),
        ('{"name": "n", "plugins": {"type": "ptp"}}', "no list of objects"),
    ],
)
def test_what_is_no_configuration_says_why(text: str, words: str) -> None:
    with pytest.raises(NoConfiguration, match=words):
        parsed(text)


def test_ours_alone_makes_no_interface() -> None:
    with pytest.raises(NoConfiguration, match="which one makes the pods' interfaces"):
        chained(listed(ENTRY), OURS)


def test_the_first_valid_file_is_the_one_that_runtimes_use() -> None:
    files = {"20-b.conflist": listed(PTP), "05-broken.conf": "{", "10-a.conflist": listed(PORTMAP)}
    name, broken = first(files | {"00-x.txt": listed(PTP)})
    assert name == "10-a.conflist" and list(broken) == ["05-broken.conf"]
    assert first({}) == ("", {})


class Node:
    def __init__(self, directory: Path, **more: Any) -> None:
        self.conf, self.bin = directory / "net.d", directory / "bin"
        self.conf.mkdir()
        self.bin.mkdir()
        self.installation = Installation(self.bin, self.conf, OURS, **more)

    def put(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.conf / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted(self.conf.iterdir())}


def test_installed_kept_and_taken_off_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    path = node.put("10-net.conflist", listed(PTP, PORTMAP), 0o600)
    other = node.put("20-other.conflist", listed(PTP))
    assert len(node.installation.keep()) == 2 and node.installation.keep() == []
    assert plugins(path.read_text()) == [PTP, PORTMAP, ENTRY] and path.stat().st_mode & 0o777 == 0o600
    assert other.read_text() == listed(PTP)
    binary = node.bin / "ztun-cni"
    assert binary.stat().st_mode & 0o777 == 0o755
    done = subprocess.run(
        [binary], env={"CNI_COMMAND": "VERSION"}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"
    assert len(node.installation.uninstall()) == 2 and node.installation.uninstall() == []
    assert plugins(path.read_text()) == [PTP, PORTMAP] and not binary.exists()
    assert path.stat().st_mode & 0o777 == 0o600 and set(node.files()) == {
        "10-net.conflist",
        "20-other.conflist",
    }


@pytest.mark.parametrize(
    "what", ["rewritten", "an-earlier-file", "binary-gone", "binary-broken", "not-executable"]
)
def test_what_others_change_is_put_right(tmp_path: Path, what: str) -> None:
    node = Node(tmp_path)
    node.put("10-net.conflist", listed(PTP))
    node.installation.keep()
    binary = node.bin / "ztun-cni"
    match what:
        case "rewritten":
            node.put("10-net.conflist", listed(PTP, PORTMAP))
        case "an-earlier-file":
            node.put("05-new.conflist", listed(PORTMAP))
        case "binary-gone":
            binary.unlink()
        case "binary-broken":
            binary.write_bytes(b"")
        case _:
            binary.chmod(0o644)
    assert node.installation.keep() and node.installation.keep() == []
    name = "05-new.conflist" if what == "an-earlier-file" else "10-net.conflist"
    assert plugins(node.files()[name])[-1] == ENTRY
    assert binary.read_bytes() == node.installation.source.read_bytes() and os.access(binary, os.X_OK)


def test_a_single_plugins_file_is_renamed_as_runtimes_want_it(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put("10-net.conf", json.dumps({"cniVersion": "0.4.0", "name": "net", **PTP}))
    node.installation.keep()
    assert set(node.files()) == {"10-net.conflist"} and plugins(node.files()["10-net.conflist"]) == [
        PTP,
        ENTRY,
    ]


def test_a_file_of_its_own_follows_the_one_that_it_is_a_copy_of(tmp_path: Path) -> None:
    node = Node(tmp_path, is_own_file=True)
    theirs = node.put("10-net.conflist", listed(PTP))
    node.installation.keep()
    assert theirs.read_text() == listed(PTP), "theirs is left alone"
    assert first(node.files())[0] == conflist.OWN_NAME
    node.put("10-net.conflist", listed(PTP, PORTMAP))
    node.installation.keep()
    assert plugins(node.files()[conflist.OWN_NAME]) == [PTP, PORTMAP, ENTRY]
    node.installation.uninstall()
    assert set(node.files()) == {"10-net.conflist"}


@pytest.mark.parametrize("made", ["nothing", "no-directory", "broken"])
def test_what_is_missing_is_named_and_waited_for(tmp_path: Path, made: str) -> None:
    node = Node(tmp_path)
    if made == "no-directory":
        node.conf.rmdir()
    elif made == "broken":
        node.put("10-net.conflist", "{")
    assert node.installation.keep() == []
    assert "pods cannot be captured before their first packet" in node.installation.problem
    node.conf.mkdir(exist_ok=True)
    node.put("10-net.conflist", listed(PTP))
    assert node.installation.keep() and not node.installation.problem


def test_where_there_is_no_cni_nothing_is_taken_off(tmp_path: Path) -> None:
    directories = ["--conf-dir", str(tmp_path / "none"), "--bin-dir", str(tmp_path / "none")]
    result = CliRunner().invoke(cni, ["uninstall", *directories])
    assert result.exit_code == 0 and "nothing of ztun-cni" in result.output


def test_a_draft_that_a_crash_left_is_in_nobodys_way(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put("10-net.conflist", listed(PTP))
    (node.conf / "10-net.conflist.ztun-draft").write_text("half")
    node.installation.keep()
    assert set(node.files()) == {"10-net.conflist"}


def test_what_another_writes_right_behind_us_is_put_right_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    path = node.put("10-net.conflist", listed(PTP))
    installation = node.installation
    ours = cni_install.replace_file

    def replaced_at_once(target: Path, content: bytes, mode: int) -> None:
        ours(target, content, mode)
        if target == path:
            node.put(path.name, listed(PTP, PORTMAP))

    with monkeypatch.context() as patch:
        patch.setattr(cni_install, "replace_file", replaced_at_once)
        installation.keep()
    assert not conflist.is_chained(path.read_text())
    installation.keep()
    assert conflist.is_chained(path.read_text())


def test_the_agent_keeps_it_there_and_leaves_it_when_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK_S", 0.01)
    node = Node(tmp_path)
    node.put("10-net.conflist", listed(PTP))
    options = {
        "node": "n1",
        "pod_source": "kubernetes",
        "pod_name": "ztun-x7k2p",
        "cni_conf_dir": str(node.conf),
        "cni_bin_dir": str(node.bin),
        "exclude_namespaces": "kube-system,other",
    }
    settings = build(options)

    async def story() -> None:
        running = pod_sources.plugin(settings)
        assert running is not None
        task = asyncio.ensure_future(running.run())
        path = node.conf / "10-net.conflist"
        for text in (listed(PTP), listed(PTP, PORTMAP)):
            node.put(path.name, text)
            async with asyncio.timeout(30):
                while not conflist.is_chained(path.read_text()):  # noqa: ASYNC110 - a file
                    await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(story())
    entry = plugins(node.files()["10-net.conflist"])[-1]
    assert entry == {
        "type": "ztun-cni",
        "socket": "/run/ztun/ztun/agent.sock",
        "excludeNamespaces": ["kube-system", "other"],
        "agentPod": {"namespace": "istio-system", "prefix": "ztun"},
    }
    result = CliRunner().invoke(cni, ["uninstall", "--conf-dir", str(node.conf), "--bin-dir", str(node.bin)])
    assert result.exit_code == 0 and "took ztun-cni out of" in result.output
    assert plugins(node.files()["10-net.conflist"]) == [PTP, PORTMAP] and not list(node.bin.iterdir())


@pytest.mark.parametrize("options", [{}, {"pod_source": "kubernetes"}])
def test_where_it_is_not_asked_for_nothing_is_done(options: dict[str, str]) -> None:
    assert pod_sources.plugin(build({"node": "n1"} | options)) is None


def test_what_keeps_it_from_its_place_is_said_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "LOOK_S", 0.01)
    looks: list[None] = []
    look = Installation.keep

    def counted(installation: Installation) -> list[str]:
        done = look(installation)
        looks.append(None)
        return done

    monkeypatch.setattr(Installation, "keep", counted)
    node = Node(tmp_path)
    node.put("10-net.conflist", "{")
    settings = build(
        {
            "node": "n1",
            "pod_source": "kubernetes",
            "pod_name": "ztun-x7k2p",
            "cni_conf_dir": str(node.conf),
            "cni_bin_dir": str(node.bin),
        }
    )

    async def until(kept: PluginKeeper, is_wrong: bool) -> None:
        async with asyncio.timeout(30):
            while bool(kept.problem) is not is_wrong:  # noqa: ASYNC110 - files
                await asyncio.sleep(0.01)

    async def story() -> None:
        kept = pod_sources.plugin(settings)
        assert kept is not None
        task = asyncio.ensure_future(kept.run())
        await until(kept, True)
        assert "has no network configuration yet" in kept.problem
        async with asyncio.timeout(30):
            while len(looks) < 3:  # noqa: ASYNC110 - counted in a thread
                await asyncio.sleep(0.01)
        node.put("20-net.conflist", listed(PTP))
        await until(kept, False)
        task.cancel()

    asyncio.run(story())
    assert conflist.is_chained(node.files()["20-net.conflist"])
    assert sum("10-net.conflist is passed over" in line for line in caplog.messages) == 1, "not at every look"


def test_the_prefix_is_that_of_the_daemon_sets_pods() -> None:
    installation = installation_of(build({"node": "n1", "pod_name": "ztun-agent-x7k2p"}))
    assert installation.plugin["agentPod"] == {"namespace": "istio-system", "prefix": "ztun-agent"}
