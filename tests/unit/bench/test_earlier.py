"""Another commit as a build to compare with: what is no commit is refused by name, what is there is not made again."""

import subprocess
from pathlib import Path

import pytest

from agent.form import Form
from tests.bench.earlier import NoSuchBuild, install

SETUP = "#!/bin/sh\nmkdir -p .venv/bin && cp word .venv/bin/ztun\n"
SETUP_OF_BOTH = SETUP + '[ "${1:-}" != --compiled ] || echo compiled >>.venv/bin/ztun\n'


def git(where: Path, *arguments: str) -> None:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
    subprocess.run(["git", *who, *arguments], cwd=where, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "scripts").mkdir(parents=True)
    (root / "scripts" / "setup").write_text(SETUP)
    (root / "scripts" / "setup").chmod(0o755)
    git(root, "init", "-q", "-b", "main")
    for word in ("first", "second"):
        (root / "word").write_text(word)
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", word)
    return root


def test_the_build_is_of_the_commit_asked_for(repository: Path, tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        *_, command = install("HEAD~1", repository, told.append, tmp_path / "cache")
        assert Path(command).read_text() == "first"
    assert len(told) == 1, "the second run has it"


def test_a_compiled_build_is_compared_with_one_where_the_commit_has_it(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "scripts" / "setup").write_text(SETUP_OF_BOTH)
    git(repository, "commit", "-q", "-a", "-m", "compiles")
    compiled = Form(("agent.net.loop",))
    rows = (
        ("HEAD", compiled, "secondcompiled\n"),
        ("HEAD", Form(), "second"),
        ("HEAD~1", compiled, "second"),
    )
    for revision, form, text in rows:
        *_, command = install(revision, repository, lambda _: None, tmp_path / "cache", like=form)
        assert Path(command).read_text() == text


def test_an_installation_that_failed_is_made_again(repository: Path, tmp_path: Path) -> None:
    (repository / "scripts" / "setup").write_text("#!/bin/sh\necho no network >&2; exit 1\n")
    git(repository, "commit", "-q", "-a", "-m", "broken")
    for _ in range(2):
        with pytest.raises(NoSuchBuild, match=r"--against main: `scripts/setup`: no network"):
            install("main", repository, lambda _: None, tmp_path / "cache")


def test_what_is_no_commit_is_refused_by_name(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSuchBuild, match="--against v9"):
        install("v9", repository, lambda _: None, tmp_path / "cache")
