"""Files read in pieces, and taken in without a look at the others: it comes to what reading all at once does."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from agent.controlplane.read import batch, pieces
from agent.controlplane.read.admission import Standing, admit
from agent.controlplane.read.directory import ManifestDirectory
from agent.controlplane.read.manifests import Manifest, parse
from agent.controlplane.read.objects import AuthorizationPolicy, Object
from agent.controlplane.read.overtaking import only_closes
from agent.controlplane.read.pieces import read_in_pieces
from agent.controlplane.read.quick_admission import Claims, quickly
from agent.controlplane.state_dir import StateDirectory
from agent.model.steps import to_the_end
from tests.support.controlplane import NAMESPACE, deny, pod

DOCUMENTS = [
    NAMESPACE,
    "# nothing but a remark\n",
    "---\n",
    pod("web-0", "node-a", "10.10.0.5"),
    pod("web-1", "node-a", "10.10.0.6").replace("podIPs", "podIPz"),
    deny("d"),
    deny("e").replace("rules", "rulez"),
    "---\n{]\n",
    "%YAML 1.1\n" + deny("f"),
    "--- # a mark\napiVersion: v1\nkind: Node\nmetadata: {name: n}\n...\n",
    '---\n{"apiVersion": "v1",\n\t"kind": "Node", "metadata": {"name": "tab"}}\n',
]


def said(manifest: Manifest) -> list[object]:
    """Everything of it, places included."""
    objects = [(o, o.meta.place) for o in manifest.objects]
    refused = [(r.place, [str(e) for e in r.errors], r.key, r.stand_in) for r in manifest.refused]
    return [objects, refused, manifest.remarks]


@pytest.mark.parametrize("seed", range(8))
def test_a_file_in_pieces_is_the_same_as_at_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "WHOLE_BELOW", 0)
    rng, known = Random(seed), {}
    for _ in range(25):
        text = "".join(rng.choices(DOCUMENTS, k=rng.randrange(1, 9)))
        read = to_the_end(read_in_pieces("f.yaml", text, known))
        assert said(read.manifest) == said(parse("f.yaml", text)), text
        known = read.by_digest


def test_only_what_is_new_in_a_large_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "WHOLE_BELOW", 0)
    text = "".join(pod(f"web-{n}", "node-a", f"10.10.0.{n}") for n in range(1, 50))
    before = to_the_end(read_in_pieces("f.yaml", text, {}))
    parts: list[str] = []
    read_part = pieces.read_part

    def counted(file: str, part: str, *where: int) -> tuple[Manifest, int]:
        parts.append(part)
        return read_part(file, part, *where)  # type: ignore[arg-type]

    monkeypatch.setattr(pieces, "read_part", counted)
    after = to_the_end(read_in_pieces("f.yaml", deny("d") + text, before.by_digest))
    assert parts == [deny("d")] and len(after.manifest.objects) == 50
    assert after.manifest.objects[-1].meta.place.document == 50


def test_line_ends_that_are_not_counted_are_read_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "WHOLE_BELOW", 0)
    text = (NAMESPACE + deny("d") + deny("e").replace("rules", "rulez")).replace("\n", "\r")
    assert said(to_the_end(read_in_pieces("f", text, {})).manifest) == said(parse("f", text))


FILES = [
    ["", pod("web-0", "n", "10.10.0.5"), pod("web-0", "n", "10.10.0.6"), pod("web-0", "n", "10.10.0.5") * 2],
    ["", pod("web-1", "n", "10.10.0.6"), pod("web-1", "n", "10.10.0.7"), pod("web-0", "n", "10.10.0.8")],
    ["", deny("d"), deny("d", "app: web"), deny("d").replace("rules", "rulez"), deny("d") + deny("e")],
    ["", deny("e"), deny("f"), deny("f", action="ALLOW"), "{"],
]


def told(standing: Standing) -> list[object]:
    refused = [(r.identity, r.outcome, r.stand_in, list(map(str, r.errors))) for r in standing.refused]
    unread = {name: str(error) for name, error in standing.unread.items()}
    return [standing.objects, standing.kept, refused, unread, standing.remarks, standing.outlived]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_taken_in_quickly_is_what_admission_lets_stand(seed: int) -> None:
    rng, claims, quick = Random(seed), Claims(), 0
    files: dict[str, Manifest] = {}
    standing = admit(Standing(), files, is_first=True)
    for _ in range(120):
        place = rng.randrange(len(FILES))
        name, text = f"{place}.yaml", rng.choice(FILES[place])
        changed = {name: parse(name, text) if text else None}
        after = {n: m for n, m in {**files, **changed}.items() if m is not None}
        slow = admit(standing, after)
        found = quickly(standing, claims, files, changed)
        if found is not None:
            quick += 1
            assert list(found.served()) == list(slow.served())
            assert told(found) == told(slow)
        for each in {name, *standing.kept, *slow.kept}:
            claims.follow(each, after.get(each), slow.kept.get(each, ()))
        standing, files = slow, after
    assert quick > 20


def one(text: str, file: str = "f") -> Object:
    [made] = parse(file, text).objects
    return made


STRICT = """apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: m, namespace: demo}
spec: {mtls: {mode: STRICT}}
"""
OPEN_PORT = STRICT.replace(
    "spec: {", "spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: DISABLE}}, "
)


@pytest.mark.parametrize(
    ("before", "after", "closes"),
    [
        (None, deny("d"), True),
        (None, deny("d", "app: web"), True),
        (None, deny("d", action="ALLOW"), False),
        (None, deny("d", action="AUDIT"), False),
        (deny("d"), deny("d", rules="[{}, {}]"), True),
        (deny("d", rules="[{}, {}]"), deny("d", rules='[{to: [{operation: {ports: ["80"]}}]}]'), False),
        (deny("d"), deny("d", "app: web"), False),
        (deny("d", action="ALLOW"), deny("d"), False),
        (None, STRICT, True),
        (None, STRICT.replace("STRICT", "PERMISSIVE"), False),
        (None, OPEN_PORT, False),
        (STRICT.replace("STRICT", "PERMISSIVE"), STRICT, True),
        (None, pod("web-0", "n", "10.10.0.5"), False),
    ],
)
def test_what_only_closes(before: str | None, after: str, closes: bool) -> None:
    assert only_closes(one(before) if before else None, one(after)) is closes
    assert not only_closes(one(before or after, "another file"), one(after))


def test_what_passes_from_one_file_to_another_is_never_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file loses it, a large one gets it: both are taken in together, however long the large one takes."""
    monkeypatch.setattr(batch, "SLICE_S", 0.0)
    monkeypatch.setattr(batch.Batch.go_on, "__defaults__", (lambda: 0.0, 0.0))
    root = tmp_path / "manifests"
    root.mkdir()
    (root / "small.yaml").write_text(deny("d"))
    directory = ManifestDirectory(root, StateDirectory(tmp_path / "state"))
    directory.read()
    (root / "large.yaml").write_text(
        "".join(pod(f"web-{n}", "n", f"10.10.0.{n}") for n in range(1, 9)) + deny("d")
    )
    (root / "small.yaml").write_text(NAMESPACE + "# longer than it was\n" * 20)
    steps = 0
    directory.step()
    while directory.is_unfinished:
        steps += 1
        assert any(o.meta.name == "d" for o in directory.reading.standing.served())
        directory.step(frozenset())
    assert steps > 1 and not directory.reading.standing.refused
    assert [o.meta.place.file for o in directory.reading.standing.served() if o.meta.name == "d"] == [
        "large.yaml"
    ]


def test_reading_has_an_end_when_a_file_changes_again_and_again_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch.Batch.go_on, "__defaults__", (lambda: 0.0, 0.0))
    root = tmp_path / "manifests"
    root.mkdir()
    (root / "other.yaml").write_text("".join(pod(f"web-{n}", "n", f"10.10.0.{n}") for n in range(1, 6)))
    (root / "same.yaml").write_text(deny("d"))
    directory = ManifestDirectory(root, StateDirectory(tmp_path / "state"))
    directory.read()
    (root / "other.yaml").write_text("".join(pod(f"web-{n}", "n", f"10.10.0.{n}") for n in range(1, 9)))
    directory.step(frozenset({"other.yaml"}))
    for number in range(40):
        draft = root / ".draft"
        draft.write_text(deny("d", f"app: web-{number}"))
        draft.replace(root / "same.yaml")
        directory.step(frozenset({"same.yaml"}))
        for _ in range(number % 4):
            directory.step(frozenset())
    steps = 0
    while directory.is_unfinished and (steps := steps + 1) < 100:
        directory.step(frozenset())
    assert steps < 100, "it has no end"
    (made,) = (o for o in directory.reading.standing.served() if o.meta.name == "d")
    assert isinstance(made, AuthorizationPolicy) and "web-39" in str(made.selector)
    assert not directory.reading.waiting
