"""Which fields the kinds of a mesh have: all of Kubernetes' and Istio's names on the levels that are read here.

`ANYTHING` ends a branch whose content does not matter to a mesh (volumes, probes, a stored status), so that a field
that is new there troubles nobody. A name that is not in these tables is a misspelling or a misplacement.
"""

from __future__ import annotations

from collections.abc import Mapping

Schema = Mapping[str, "Schema | None"]
"""Field -> what it holds, through lists; the name `*` stands for any name."""
ANYTHING = None


def fields(names: str, **nested: Schema | None) -> Schema:
    """The fields of these names, and those with a schema of their own."""
    return {**dict.fromkeys(names.split(), ANYTHING), **nested}


OWNER = fields("apiVersion kind name uid controller blockOwnerDeletion")
META = fields(
    "name generateName namespace selfLink uid resourceVersion generation creationTimestamp deletionTimestamp"
    " deletionGracePeriodSeconds labels annotations finalizers managedFields clusterName",
    ownerReferences=OWNER,
)


def kind(names: str = "", **nested: Schema | None) -> Schema:
    """An object: what every one has, and these."""
    return fields("apiVersion kind " + names, metadata=META, **nested)


CONDITION = fields("type status lastProbeTime lastTransitionTime reason message observedGeneration")
CONTAINER = fields(
    "name image command args workingDir envFrom env resources resizePolicy restartPolicy restartPolicyRules"
    " volumeMounts volumeDevices livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath"
    " terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty targetContainerName",
    ports=fields("name hostPort containerPort protocol hostIP"),
)
POD = kind(
    spec=fields(
        "volumes restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy nodeSelector"
        " serviceAccountName serviceAccount automountServiceAccountToken nodeName hostNetwork hostPID hostIPC"
        " shareProcessNamespace securityContext imagePullSecrets hostname subdomain affinity schedulerName"
        " tolerations hostAliases priorityClassName priority dnsConfig readinessGates runtimeClassName"
        " enableServiceLinks preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os hostUsers"
        " schedulingGates resourceClaims resources hostnameOverride workloadRef schedulingGroup",
        containers=CONTAINER,
        initContainers=CONTAINER,
        ephemeralContainers=CONTAINER,
    ),
    status=fields(
        "phase message reason nominatedNodeName hostIP hostIPs podIP startTime initContainerStatuses qosClass"
        " containerStatuses ephemeralContainerStatuses resize resourceClaimStatuses observedGeneration"
        " extendedResourceClaimStatus allocatedResources resources",
        conditions=CONDITION,
        podIPs=fields("ip"),
    ),
)
SERVICE = kind(
    "status",
    spec=fields(
        "selector clusterIP clusterIPs type externalIPs sessionAffinity loadBalancerIP loadBalancerSourceRanges"
        " externalName externalTrafficPolicy healthCheckNodePort publishNotReadyAddresses sessionAffinityConfig"
        " ipFamilies ipFamily ipFamilyPolicy allocateLoadBalancerNodePorts loadBalancerClass"
        " internalTrafficPolicy trafficDistribution topologyKeys",
        ports=fields("name protocol appProtocol port targetPort nodePort"),
    ),
)
NAMESPACE = kind("spec status")
NODE = kind("spec status")
SERVICE_ACCOUNT = kind("secrets imagePullSecrets automountServiceAccountToken")
CONFIG_MAP = kind("data binaryData immutable")

SELECTOR = fields("matchLabels")
SOURCE = fields(
    "principals notPrincipals requestPrincipals notRequestPrincipals namespaces notNamespaces serviceAccounts"
    " notServiceAccounts ipBlocks notIpBlocks remoteIpBlocks notRemoteIpBlocks"
)
OPERATION = fields("hosts notHosts ports notPorts methods notMethods paths notPaths")
TARGET = fields("group kind name namespace")
RULE: Schema = {
    "from": fields("", source=SOURCE),
    "to": fields("", operation=OPERATION),
    "when": fields("key values notValues"),
}
AUTHORIZATION_POLICY = kind(
    "status",
    spec=fields(
        "action",
        selector=SELECTOR,
        targetRef=TARGET,
        targetRefs=TARGET,
        provider=fields("name"),
        rules=RULE,
    ),
)
CLIENT = fields("principals notPrincipals namespaces notNamespaces serviceAccounts notServiceAccounts")
CONNECTION_LIMIT = kind(
    "status",
    spec={
        **fields("connections newConnectionsPerSecond bytesPerSecond", selector=SELECTOR),
        "from": fields("", source=CLIENT),
    },
)
MODE = fields("mode")
PEER_AUTHENTICATION = kind("status", spec=fields("", selector=SELECTOR, mtls=MODE, portLevelMtls={"*": MODE}))
ENDPOINT_SLICE = kind(
    "addressType",
    endpoints=fields(
        "addresses hostname nodeName zone hints deprecatedTopology topology",
        conditions=fields("ready serving terminating"),
        targetRef=fields("apiVersion kind namespace name uid resourceVersion fieldPath"),
    ),
    ports=fields("name protocol port appProtocol"),
)
ENDPOINT = fields("address ports labels network locality weight serviceAccount")
WORKLOAD_ENTRY = kind("status", spec=ENDPOINT)
SERVICE_ENTRY = kind(
    spec=fields(
        "hosts addresses location resolution exportTo subjectAltNames",
        ports=fields("number name protocol targetPort"),
        endpoints=ENDPOINT,
        workloadSelector=fields("labels"),
    ),
    status=fields("conditions validationMessages observedGeneration", addresses=fields("value host")),
)
GATEWAY = kind(
    spec=fields(
        "gatewayClassName infrastructure tls backendTLS allowedListeners defaultScope",
        addresses=fields("type value"),
        listeners=fields(
            "name hostname port protocol tls",
            allowedRoutes=fields("kinds", namespaces=fields("from selector")),
        ),
    ),
    status=fields("conditions listeners attachedListenerSets", addresses=fields("type value")),
)
GATEWAY_CLASS = kind("status", spec=fields("controllerName parametersRef description"))
LIST = fields("apiVersion kind metadata items")
LABEL_SELECTOR = fields("matchLabels", matchExpressions=fields("key operator values"))
ENTRY_VISIBILITY = fields(
    "defaultVisibility applyToSidecars",
    policies=fields("visibility", matchingRules=fields("namespaceSelector")),
)
