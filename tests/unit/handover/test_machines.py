"""Giver and taker as machines: whatever order they are spoken to in, a unit is one process's to go on with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.handover.giver import Accepted, Declined, Giver, Greeted
from agent.handover.messages import Done, Go, Hello, Message, No, Offer, ProtocolError, Ready, Refused
from agent.handover.taker import Build, Forget, Inherit, Start, Taker

STEPS = st.lists(
    st.sampled_from(["offer", "give", "take", "late", "ready", "refuse", "dead giver"]), max_size=40
)


class Play:
    """Both, and what is on its way between them. `owners` of each unit: "giver", "taker", or nobody for now."""

    def __init__(self) -> None:
        self.giver, self.taker = Giver([2, 1]), Taker([1])
        self.to_giver: list[Message] = [self.taker.hello()]
        self.to_taker: list[Message] = []
        self.owner: dict[int, str] = {}
        self.number = 0
        self.building = 0
        self.is_giver_dead = False

    def step(self, what: str) -> None:
        if self.is_giver_dead and what in ("offer", "give", "late"):
            return
        match what:
            case "offer" if self.giver.is_free:
                offered = self.giver.offer(b"unit", ())
                self.number = offered.number
                self.owner[self.number] = ""
                self.to_taker.append(offered)
            case "give" if self.to_giver:
                self.hear_as_giver(self.to_giver.pop(0))
            case "take" if self.to_taker:
                self.hear_as_taker(self.to_taker.pop(0))
            case "late" if self.giver.is_waiting:
                no = self.giver.no()
                assert no is not None
                self.to_taker.append(no)
                self.own("giver")
            case "ready" if self.building:
                self.to_giver.append(self.taker.ready())
                self.building = 0
            case "refuse" if self.building:
                self.to_giver.append(self.taker.refused("why"))
                self.building = 0
            case "dead giver":
                self.is_giver_dead = True
                # What it has said is read before its end.
                while self.to_taker:
                    self.hear_as_taker(self.to_taker.pop(0))
                if self.building:
                    self.step("ready")
                if self.taker.ended() is not None:
                    self.own("taker")

    def own(self, who: str) -> None:
        before = self.owner[self.number]
        assert before in ("", who), f"the {before} has it, and now the {who} too"
        self.owner[self.number] = who

    def hear_as_giver(self, message: Message) -> None:
        match self.giver.receive(message):
            case Greeted() as greeted:
                assert greeted.format == 1
            case Accepted():
                self.to_taker.append(self.giver.go())
                # From now on it is not the giver's; the taker has it when it hears.
                self.own("taker")
            case Declined():
                self.own("giver")

    def hear_as_taker(self, message: Message) -> None:
        match self.taker.receive(message):
            case Build():
                self.building = self.number
            case Start():
                self.own("taker")
            case Forget():
                assert self.owner[self.number] == "giver"
                self.building = 0


@given(STEPS)
def test_no_unit_has_two_owners(steps: list[str]) -> None:
    play = Play()
    for step in steps:
        play.step(step)
    play.step("dead giver")
    for number, owner in play.owner.items():
        assert owner or number == play.number


MESSAGES = st.one_of(
    st.builds(Hello, st.lists(st.integers(0, 3), max_size=3).map(tuple)),
    st.builds(Ready, st.integers(0, 3)),
    st.builds(Refused, st.integers(0, 3), st.just("x")),
    st.builds(Go, st.integers(0, 3)),
    st.builds(No, st.integers(0, 3)),
    st.builds(Done, st.just(b"{}")),
    st.builds(Offer, st.integers(0, 3), st.integers(0, 3), st.just(b""), st.just(0)),
)


@given(st.lists(st.tuples(MESSAGES, st.booleans()), max_size=20))
def test_whoever_speaks_out_of_turn_gets_an_error_and_nothing_started(
    said: list[tuple[Message, bool]],
) -> None:
    """A hostile end: the machines never do what was not asked for in its place."""
    giver, taker = Giver([1]), Taker([1])
    built = False
    for message, is_eager in said:
        try:
            answer = giver.receive(message)
            if giver.is_free and is_eager:
                giver.offer(b"", ())
            if isinstance(answer, Accepted):
                giver.go()
        except ProtocolError:
            pass
        try:
            order = taker.receive(message)
        except ProtocolError:
            continue
        if isinstance(order, Build):
            built = is_eager
            _ = taker.ready() if is_eager else taker.refused("no")
        elif isinstance(order, Start):
            assert built
            built = False
        elif isinstance(order, Forget | Inherit):
            built = False


@pytest.mark.parametrize(
    "message", [Go(2), Go(0), No(2), No(0), Offer(1, 1, b"", 0), Offer(3, 1, b"", 0), Done(b"")]
)
def test_what_a_giver_says_of_another_unit_is_out_of_turn(message: Message) -> None:
    taker = Taker([1])
    assert isinstance(taker.receive(Offer(1, 1, b"", 0)), Build)
    taker.ready()
    with pytest.raises(ProtocolError):
        taker.receive(message)


def test_a_taker_without_our_format_is_given_nothing() -> None:
    giver = Giver([3, 2])
    assert giver.receive(Hello((1,))) == Greeted(0) and not giver.is_free
    assert giver.no() is None


def test_the_best_format_of_both_is_taken() -> None:
    giver = Giver([3, 2, 1])
    assert giver.receive(Hello((1, 2))) == Greeted(2)
    assert giver.offer(b"", ()).format == 2


def test_an_answer_that_crosses_the_no_means_nothing() -> None:
    giver = Giver([1])
    giver.receive(Hello((1,)))
    giver.offer(b"", ())
    assert giver.no() == No(1)
    assert giver.receive(Ready(1)) is None
    with pytest.raises(ProtocolError):
        giver.receive(Ready(2))
