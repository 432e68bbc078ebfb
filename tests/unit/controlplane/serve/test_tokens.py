"""Node tokens: on disk only as hashes, private files, damage is said."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.controlplane.serve.tokens import TokenStore, issue
from agent.controlplane.state_dir import StateDirectory, StateError


def test_a_token_names_its_node_and_is_kept_as_a_hash(tmp_path: Path) -> None:
    paths = {node: issue(tmp_path, node) for node in ("node-a", "node-b")}
    texts = {node: path.read_text() for node, path in paths.items()}
    assert all(text == text.strip() for text in texts.values()), "others send the file as it stands"
    store = TokenStore(StateDirectory(tmp_path))
    assert {node: store.node_of(text) for node, text in texts.items()} == {n: n for n in texts}
    assert store.node_of("") is None and store.node_of(texts["node-a"][:-1]) is None
    assert stat.S_IMODE(paths["node-a"].stat().st_mode) == 0o600
    kept = (tmp_path / "tokens.json").read_text()
    assert not any(text in kept for text in texts.values())


def test_tokens_issued_later_are_known_and_old_ones_forgotten(tmp_path: Path) -> None:
    store = TokenStore(StateDirectory(tmp_path))
    assert store.node_of("x") is None
    old = issue(tmp_path, "node-a").read_text().strip()
    assert store.node_of(old) == "node-a"
    new = issue(tmp_path, "node-a").read_text().strip()
    assert (store.node_of(old), store.node_of(new)) == (None, "node-a")


@pytest.mark.parametrize("node", ["", "../x", "a/b", "Node", "a" * 300])
def test_node_names_cannot_leave_the_directory(tmp_path: Path, node: str) -> None:
    with pytest.raises(StateError, match="is not a node name"):
        issue(tmp_path, node)


@pytest.mark.parametrize("content", ["{", "[]", '{"node-a": 7}', '{"node-a": "short"}'])
def test_a_damaged_file_is_said_and_lets_nobody_in(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(StateError, match=r"tokens\.json is damaged"):
        TokenStore(StateDirectory(tmp_path)).node_of("x")


def test_who_may_not_write_there_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("agent.controlplane.state_dir.os.open", refuse)
    with pytest.raises(StateError, match=r"Permission denied; run this as root, or name a --state-dir"):
        issue(tmp_path, "node-a")
