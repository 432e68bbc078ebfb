"""What becomes of a pod's query: the mesh's answer, an earlier one, that of the pod's own server, or a refusal."""

from __future__ import annotations

from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import pytest

from agent.proxy import dns_service
from agent.proxy.dns_figures import Refused
from agent.proxy.dns_ports import AGAIN_S, GIVE_UP_S
from agent.proxy.dns_service import MOST_OF_A_POD, MOST_WAITING
from tests.support import mesh
from tests.support.dns_service import NOBODY, OTHER_POD, POD, PROXY, Asking, asking
from tests.support.pod_dns import texts

ZONE = {
    ("far.test.", "A"): ["192.0.2.1"],
    ("far.test.", "MX"): ["10 mail.test."],
    ("large.test.", "A"): [f"10.1.{number}.1" for number in range(100)],
}


@pytest.fixture
def pod() -> Iterator[Asking]:
    with asking(ZONE) as made:
        yield made


def test_the_mesh_answers_without_anybody_elses_help(pod: Asking) -> None:
    for _ in range(2):
        answer = pod.ask("web.apps.svc.cluster.local.")
        assert (texts(answer), bool(answer.flags & dns.flags.AA)) == (["10.1.0.1"], True)
    assert not pod.ask("web.apps.svc.cluster.local.", "AAAA").answer
    assert not pod.server.asked


def test_an_answer_of_the_mesh_changes_with_it(pod: Asking) -> None:
    assert texts(pod.ask("web.")) == ["10.1.0.1"]
    pod.store.apply(mesh.batch(mesh.service("web", "10.1.0.77")))
    assert texts(pod.ask("web.")) == ["10.1.0.77"]


def test_a_name_that_the_mesh_comes_to_know_is_no_longer_the_servers(pod: Asking) -> None:
    assert pod.ask("late.test.").rcode() == dns.rcode.NXDOMAIN
    assert texts(pod.ask("far.test.")) == ["192.0.2.1"]
    pod.store.apply(mesh.batch(mesh.service("late", "10.1.0.78", hostname="late.test")))
    assert texts(pod.ask("late.test.")) == ["10.1.0.78"]
    asked = len(pod.server.asked)
    for _ in range(2):
        assert texts(pod.ask("far.test.")) == ["192.0.2.1"]
    assert len(pod.server.asked) == asked, "what it does not know is kept"


def test_a_name_means_what_it_means_to_the_pod_that_asks(pod: Asking) -> None:
    assert texts(pod.ask("web.")) == ["10.1.0.1"]
    assert pod.ask("web.", client=OTHER_POD).rcode() == dns.rcode.NXDOMAIN, "its namespace has none"


def test_several_addresses_come_in_another_order(pod: Asking) -> None:
    def order() -> tuple[str, ...]:
        return tuple(row.to_text() for row in pod.ask("pair.").answer[0])

    assert {order() for _ in range(40)} == {("10.1.0.3", "10.1.0.4"), ("10.1.0.4", "10.1.0.3")}


@pytest.mark.parametrize("over_tcp", [False, True])
def test_other_names_are_the_servers(pod: Asking, over_tcp: bool) -> None:
    answer = pod.ask("far.test.", over_tcp=over_tcp)
    assert (texts(answer), bool(answer.flags & dns.flags.AA)) == (["192.0.2.1"], False)
    assert texts(pod.ask("far.test.", "MX", over_tcp=over_tcp)) == ["10 mail.test."]
    assert pod.ask("nowhere.test.", over_tcp=over_tcp).rcode() == dns.rcode.NXDOMAIN
    assert {(each.client, each.transport) for each in pod.server.asked} == {
        (str(POD), "tcp" if over_tcp else "udp")
    }
    assert not pod.service.forwarded_now


def test_what_is_cut_is_passed_on_so_and_whole_over_tcp(pod: Asking) -> None:
    assert pod.ask("large.test.").flags & dns.flags.TC
    assert len(texts(pod.ask("large.test.", over_tcp=True))) == 100


def test_an_answer_is_given_again_while_it_is_good(pod: Asking) -> None:
    assert pod.ask("far.test.").answer[0].ttl == 60
    pod.passed_s += 20
    assert 39 <= pod.ask("far.test.").answer[0].ttl <= 40
    assert len(pod.server.asked) == 1
    assert pod.ask("nowhere.test.").rcode() == pod.ask("nowhere.test.").rcode() == dns.rcode.NXDOMAIN
    assert len(pod.server.asked) == 2, "that there is nothing is kept as well"
    pod.passed_s += 45
    assert pod.ask("far.test.").answer[0].ttl == 60
    assert len(pod.server.asked) == 3
    assert pod.service.figures.cached == 2
    pod.service.forget()
    pod.ask("far.test.")
    assert len(pod.server.asked) == 4, "the address may be another pod's"
    assert pod.take(dns.message.make_query("far.test.", "MX", use_edns=False).to_wire()) is None
    pod.service.forget()
    pod.until(lambda: bool(pod.late))
    pod.late.clear()
    pod.ask("far.test.", "MX")
    assert len(pod.server.asked) == 6, "nor is what was under way another pod's"


def test_who_asks_the_same_at_once_waits_for_one_answer(pod: Asking) -> None:
    query = dns.message.make_query("far.test.", "A", use_edns=False)
    for number in range(MOST_WAITING):
        query.id = number
        assert pod.take(query.to_wire()) is None
    query.id = MOST_WAITING
    refused = pod.take(query.to_wire())
    assert refused is not None and dns.message.from_wire(refused).rcode() == dns.rcode.SERVFAIL
    pod.until(lambda: len(pod.late) == MOST_WAITING)
    assert {int.from_bytes(answer[:2], "big") for answer in pod.late} == set(range(MOST_WAITING))
    assert len(pod.server.asked) == 1


def test_a_server_that_says_nothing_is_asked_once_more_and_given_up(pod: Asking) -> None:
    pod.server.is_silent = True
    query = dns.message.make_query("far.test.", "A", use_edns=False)
    assert pod.take(query.to_wire()) is None
    pod.until(lambda: len(pod.server.asked) == 1)
    pod.passed_s += AGAIN_S
    pod.until(lambda: len(pod.server.asked) == 2)
    pod.passed_s += GIVE_UP_S - AGAIN_S
    pod.until(lambda: bool(pod.late))
    assert dns.message.from_wire(pod.late[0]).rcode() == dns.rcode.SERVFAIL
    assert sum(pod.service.figures.failed.values()) == 1
    pod.server.is_silent = False
    pod.late.clear()
    assert texts(pod.ask("far.test.")) == ["192.0.2.1"], "a failure is not kept"


@pytest.mark.parametrize("over_tcp", [False, True])
def test_a_server_that_is_not_there_is_a_failure(over_tcp: bool) -> None:
    with asking({}) as gone:
        port = gone.server.port
    with asking({}, asked_at=port) as pod:
        assert pod.ask("far.test.", over_tcp=over_tcp).rcode() == dns.rcode.SERVFAIL
        assert not pod.service.forwarded_now


def test_no_pod_has_more_under_way_than_its_share(pod: Asking) -> None:
    pod.server.is_silent = True
    for number in range(MOST_OF_A_POD):
        assert pod.take(dns.message.make_query(f"n{number}.test.", "A").to_wire()) is None
    more = dns.message.make_query("more.test.", "A").to_wire()
    refused = pod.take(more)
    assert refused is not None and dns.message.from_wire(refused).rcode() == dns.rcode.SERVFAIL
    assert pod.service.figures.refused[Refused.TOO_MANY] == 1
    assert pod.take(more, client=OTHER_POD) is None, "others have theirs"
    assert pod.service.forwarded_now == MOST_OF_A_POD + 1


def test_some_that_ask_for_much_leave_room_for_others(pod: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.server.is_silent = True
    monkeypatch.setattr(dns_service, "MOST_FORWARDED", 9)
    queries = [dns.message.make_query(f"n{number}.test.", "A").to_wire() for number in range(10)]
    assert sum(pod.take(query) is None for query in queries) == 5
    assert sum(pod.take(query, client=OTHER_POD) is None for query in queries) == 2
    assert pod.service.forwarded_now < 9


def test_loops_strangers_and_noise_are_refused_by_their_reason(pod: Asking) -> None:
    refused = pod.service.figures.refused
    for server in (PROXY, POD):
        assert pod.ask("far.test.", server=server).rcode() == dns.rcode.REFUSED
    assert refused[Refused.LOOP] == 2
    assert texts(pod.ask("web.", server=PROXY)) == ["10.1.0.1"], "nobody is asked for it"
    assert pod.ask("far.test.", client=NOBODY).rcode() == dns.rcode.SERVFAIL
    assert refused[Refused.UNKNOWN_POD] == 1
    answer = pod.take(dns.message.make_query("far.test.", "A").to_wire()[:-2])
    assert answer is not None and dns.message.from_wire(answer).rcode() == dns.rcode.FORMERR
    assert pod.take(b"short") is None
    assert refused[Refused.UNREADABLE] == 2
    assert not pod.server.asked


def test_what_is_counted_has_ztunnels_labels(pod: Asking) -> None:
    pod.ask("web.")
    pod.ask("web.")
    pod.ask("far.test.", "MX", over_tcp=True)
    figures = pod.service.figures
    assert figures.requests == {("A", "udp", "client", "v1"): 2, ("MX", "tcp", "client", "v1"): 1}
    assert figures.forwarded == {("MX", "tcp", "client", "v1"): 1}
    durations = [(labels, value) for family, labels, value in figures.samples() if "duration" in family.name]
    assert [labels[4] for labels, _ in durations] == [
        "0.0005",
        "0.001",
        "0.01",
        "0.1",
        "1.0",
        "5.0",
        "+Inf",
        "sum",
    ]
    assert durations[-2][1] == 1 and 0 < durations[-1][1] < 5
