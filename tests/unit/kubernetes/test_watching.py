"""What a list and a watch of the Kubernetes API tell, whatever happens on the way.

Each test holds for every API server: they run against the fake one, and with `ZTUN_KUBE_BIN` (a directory with
kube-apiserver and etcd) against a real one too. What only the fake can be made to do is in test_bad_servers.py.
"""

from __future__ import annotations

from pathlib import Path

from tests.support import kube
from tests.support.kube_watch import Api, Following, following

NODE = "n1"


def test_pods_of_this_node_and_no_others_from_the_first_list_on(api: Api) -> None:
    api.create(kube.pod("here", node=NODE))
    api.create(kube.pod("elsewhere", node="n2"))
    with following(api, NODE) as seen:
        seen.until(lambda: seen.is_listed)
        assert seen.names == {"here"}
        api.create(kube.pod("later", node=NODE))
        api.create(kube.pod("elsewhere-too", node="n2"))
        api.delete("pods", "here", "demo")
        seen.until(lambda: seen.names == {"later"})


def test_changes_come_once_each_and_in_order(api: Api) -> None:
    api.create(kube.pod("one", node=NODE))
    with following(api, NODE) as seen:
        seen.until(lambda: seen.is_listed)
        for number in range(5):
            api.change("pods", "one", "demo", metadata={"labels": {"turn": str(number)}})
        seen.until(lambda: seen.label("one", "turn") == "4")
        assert [pod.labels.get("turn") for pod in seen.puts("one")] == [None, "0", "1", "2", "3", "4"]


def test_a_pod_that_is_made_again_at_once_is_another_one(api: Api) -> None:
    first = api.create(kube.pod("web", node=NODE))["metadata"]["uid"]
    with following(api, NODE) as seen:
        seen.until(lambda: seen.is_listed)
        api.delete("pods", "web", "demo")
        second = api.create(kube.pod("web", node=NODE))["metadata"]["uid"]
        seen.until(lambda: seen.uid("web") == second)
        assert [gone.uid for gone in seen.gone] == [first]


def test_watches_that_end_are_opened_again_and_nothing_is_lost_or_listed_twice(api: Api) -> None:
    with following(api, NODE, watch_s=1) as seen:
        seen.until(lambda: seen.is_listed)
        for number in range(3):
            before = seen.watches
            seen.until(lambda before=before: seen.watches > before)
            api.create(kube.pod(f"pod-{number}", node=NODE))
            seen.until(lambda number=number: f"pod-{number}" in seen.names)
        assert seen.lists == 1 and not seen.problem


def test_what_happened_while_the_server_was_away_is_made_up_for(api: Api) -> None:
    api.create(kube.pod("stays", node=NODE))
    api.create(kube.pod("goes", node=NODE))
    with following(api, NODE) as seen:
        seen.until(lambda: seen.is_listed)
        api.stop()
        seen.until(lambda: bool(seen.problem))
        assert seen.names == {"stays", "goes"}, "a dead server takes nobody away"
        api.start()
        api.delete("pods", "goes", "demo")
        api.create(kube.pod("comes", node=NODE))
        seen.until(lambda: seen.names == {"stays", "comes"})
        seen.until(lambda: not seen.problem)
        assert len(seen.puts("stays")) == 1, "what is as it was is not told again"


def test_a_version_that_the_server_has_forgotten_means_a_new_list_and_its_differences(api: Api) -> None:
    api.create(kube.pod("stays", node=NODE))
    gone = api.create(kube.pod("goes", node=NODE))["metadata"]["uid"]
    with following(api, NODE) as seen:
        seen.until(lambda: seen.is_listed)
        api.stop()
        seen.until(lambda: bool(seen.problem))
        seen.pause()
        api.start()
        api.delete("pods", "goes", "demo")
        api.create(kube.pod("comes", node=NODE))
        api.forget_versions()
        seen.go_on()
        seen.until(lambda: seen.names == {"stays", "comes"})
        assert [each.uid for each in seen.gone] == [gone]
        assert len(seen.puts("stays")) == 1, "what is as it was is not told again"
        seen.until(lambda: seen.lists == 2)


def test_the_token_is_read_anew_for_each_request(api: Api, tmp_path: Path) -> None:
    with following(api, NODE, watch_s=1) as seen:
        seen.until(lambda: seen.is_listed)
        good = api.token_file.read_text()
        api.token_file.write_text("of-yesterday")
        seen.until(lambda: "does not accept this agent's credentials" in seen.problem)
        assert isinstance(seen, Following)
        api.token_file.write_text(good)
        seen.until(lambda: not seen.problem)
        api.create(kube.pod("one", node=NODE))
        seen.until(lambda: seen.names == {"one"})


def test_a_token_that_expires_while_the_api_is_watched_lets_nobody_go(api: Api) -> None:
    good = api.token_file.read_text()
    api.create(kube.pod("web", node=NODE))
    api.token_file.write_text(api.token_that_expires())
    with following(api, NODE, watch_s=1) as seen:
        seen.until(lambda: seen.names == {"web"} and not seen.problem)
        api.let_it_expire()
        seen.until(
            lambda: "is its token or client certificate expired, or of another cluster?" in seen.problem
        )
        assert seen.names == {"web"} and seen.lists == 1
        api.create(kube.pod("more", node=NODE))
        api.token_file.write_text(good)
        seen.until(lambda: seen.names == {"web", "more"} and not seen.problem)
