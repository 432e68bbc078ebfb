"""What `ztun doctor --flow` says of the route to what is known by a host name alone."""

from __future__ import annotations

import pytest

from agent import config
from agent.doctor.check import Verdict
from agent.doctor.flow import mesh_steps
from agent.pages.explain import explained
from agent.state.host_names import NamedHosts
from tests.support import mesh


@pytest.mark.parametrize(
    ("told", "verdict", "says"),
    [
        ([("db.test", ["192.0.2.7"], "")], Verdict.OK, "192.0.2.7:8080"),
        ([("db.test", [], "db.test does not exist")], Verdict.FAILED, "refused: db.test does not exist"),
        ([("db.test", [], "")], Verdict.CANNOT_TELL, "db.test has not been looked up yet"),
        ([], Verdict.CANNOT_TELL, "db.test has not been looked up yet"),
    ],
    ids=["found", "failed", "asked", "not known"],
)
def test_a_route_is_by_what_the_name_stood_for_when_it_was_looked_up(
    told: list[tuple[str, list[str], str]], verdict: Verdict, says: str
) -> None:
    client = mesh.workload("client", "10.0.0.1")
    named = mesh.workload("db", hostname="db.test", services={"web": {}})
    names = NamedHosts()
    names.told(told, ())
    state = mesh.snapshot(client, named, mesh.service("web", "10.9.0.1"))
    answer = explained(
        state, config.build({"node": "n1"}), mesh.at("10.0.0.1:4000"), mesh.at("10.9.0.1:80"), names
    )
    step, *_ = mesh_steps(answer)
    assert (step.where, step.verdict) == ("route", verdict)
    assert says in step.words
