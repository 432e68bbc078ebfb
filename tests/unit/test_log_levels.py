"""What a spec of levels means, and that it holds for this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from agent.log_force import put_in_force
from agent.log_levels import NUMBERS, OURS, Levels, NoLevel, initial


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("debug", "debug"),
        ("WARNING", "warn"),
        ("critical", "error"),
        ("access=off", "info,access=off"),
        ("rpc::xds_client=debug", "info,rpc::xds_client=debug"),
        ("rpc::xds_client:debug", "info,rpc::xds_client=debug"),
        ("ztunnel::proxy=trace,warn", "warn,proxy=trace"),
        ("ztunnel=debug", "info,agent=debug"),
        ("xds=debug,inpod=debug", "info,rpc::xds_client=debug,zds=debug"),
        ("redirect::reconcile=debug, off", "off,redirect::reconcile=debug"),
        ("access=debug,access=error", "info,access=error"),
    ],
)
def test_a_spec_is_put_on_top(spec: str, shown: str) -> None:
    assert str(Levels().with_spec(spec)) == shown
    assert str(Levels("info").with_spec(str(Levels().with_spec(spec)))) == shown, "what is shown can be given"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("loud", "'loud' is no level"),
        ("", "'' is no level"),
        ("debug,", "'' is no level"),
        ("rpc=", "'' is no level"),
        ("bogus=debug", "'bogus' is no target"),
        ("=debug", "'' is no target"),
        ("../etc=debug", "is no target"),
        ("rpc.xds_client=debug", "is no target"),
        ("rpc::=debug", "is no target"),
    ],
)
def test_what_would_have_no_effect_is_refused(spec: str, says: str) -> None:
    with pytest.raises(NoLevel, match=says):
        Levels().with_spec(spec)


@pytest.mark.parametrize(
    ("levels", "least"),
    [
        (Levels(), logging.INFO),
        (Levels("warn"), logging.WARNING),
        (Levels("debug"), logging.DEBUG),
        (Levels("error", (("access", "debug"),)), logging.DEBUG),
        (initial("debug"), logging.INFO),
        (initial("warning"), logging.INFO),
        (initial("warning,rpc=debug"), logging.INFO),
        (initial("warning,access=error"), logging.ERROR),
        (initial("access=off"), NUMBERS["off"]),
    ],
)
def test_the_access_log_follows_the_overall_level_unless_it_has_its_own(levels: Levels, least: int) -> None:
    """At the start it is as it always was, unless --log-level names it."""
    assert levels.access == least


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger().level
    yield
    put_in_force(Levels(), Levels("info", (("rpc", "debug"),)))
    logging.getLogger().setLevel(root)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("restored")
def test_levels_are_those_of_the_loggers_and_end_with_the_next() -> None:
    def writes(name: str, level: int) -> bool:
        return logging.getLogger(name).isEnabledFor(level)

    first = Levels("warn", (("rpc", "debug"),))
    put_in_force(first, Levels())
    assert writes("agent.rpc.xds_client", logging.DEBUG) and not writes("agent.enroll.enroller", logging.INFO)
    put_in_force(Levels("off"), first)
    assert not writes("agent.rpc.xds_client", logging.CRITICAL)
    put_in_force(Levels(), Levels("off"))
    assert writes("agent.rpc.xds_client", logging.INFO) and not writes("agent.rpc.xds_client", logging.DEBUG)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("overall", ["info", "debug", "trace"])
def test_other_peoples_loggers_say_warnings_alone_unless_they_are_named(overall: str) -> None:
    def least(name: str) -> int:
        return logging.getLogger(name).getEffectiveLevel()

    put_in_force(initial(overall), Levels())
    assert {least(name) for name in ("watchfiles.main", "asyncio", "hpack.hpack", "grpc._cython")} == {
        logging.WARNING
    }
    assert {least(name) for name in ("agent.app", "redirect.reconcile", "__main__")} == {NUMBERS[overall]}
    named = initial(f"{overall},hpack=debug")
    put_in_force(named, initial(overall))
    assert (least("hpack.hpack"), least("watchfiles.main")) == (logging.DEBUG, logging.WARNING)
    put_in_force(initial("error"), named)
    assert {least(name) for name in ("hpack.hpack", "watchfiles.main", "agent.app")} == {logging.ERROR}
