"""What has to hold in a cluster, in the order in which it is shown."""

from __future__ import annotations

from collections.abc import Callable

from tests.cluster import kinds, mesh, names, operation, policy, rollout, workloads
from tests.cluster.stage import Stage

Fact = Callable[[Stage], str]
FACTS: tuple[tuple[str, tuple[Fact, ...]], ...] = (
    ("installation", (mesh.pods_without_a_mesh, mesh.installed, mesh.running_pods_are_enrolled)),
    (
        "the mesh",
        (
            mesh.traffic_is_mutual_tls,
            mesh.services_answer,
            names.a_service_by_its_name,
            kinds.a_kind_that_comes_later,
            mesh.within_a_node,
            mesh.left_alone,
            mesh.new_pods_are_enrolled,
            mesh.first_packets,
            mesh.label_enrols,
            mesh.job_completes,
        ),
    ),
    (
        "policy",
        (
            policy.strict_holds_and_probes_pass,
            policy.of_the_node_only_the_kubelet,
            policy.probes_pass_while_taken_in,
            policy.policy_is_enforced,
            policy.identity_is_the_service_account,
            policy.network_policy_holds,
        ),
    ),
    (
        "pods that come and go",
        (
            workloads.label_of_a_pod,
            workloads.same_name_again,
            workloads.address_of_one_that_ended,
            workloads.node_drained,
            workloads.started_anew,
        ),
    ),
    (
        "operation",
        (
            operation.rolling_update,
            operation.killed_agent,
            operation.crashed_agent,
            operation.two_agents,
            operation.taken_over,
            rollout.next_version_beside,
            rollout.pods_wait_for_an_agent,
            operation.api_server_away,
            operation.rebooted_node,
            operation.uninstalled,
        ),
    ),
)
