"""Values that others set in every chart, and what becomes of them here."""

from typing import Any

import pytest
import yaml
from helm_python import HelmError

from tests.helm.charting import (
    KUBERNETES,
    RELEASE,
    changed,
    container,
    render,
    taken_by_kubernetes,
    values_of,
)

POD = "Deployment", "spec.template.spec"
PROXY = "Deployment", "spec.template.spec.containers.0"
SPREAD = {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
VOLUME = {"name": "ca", "configMap": {"name": "corporate-ca"}}
MOUNT = {"name": "ca", "mountPath": "/etc/ssl/corporate", "readOnly": True}
SIDECAR = {"name": "mesh", "image": "mesh:1", "args": ["run"]}
OWN_SECURITY = {"supplementalGroups": [2000], "runAsUser": None}

USUAL: list[tuple[str, Any, tuple[str, str], Any]] = [
    ("extraEnv", [{"name": "TZ", "value": "Europe/Berlin"}], PROXY, {"env": [..., {"name": "TZ"}]}),
    (
        "extraEnv",
        [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        PROXY,
        {"env": [..., {"name": "NODE"}]},
    ),
    ("envFrom", [{"secretRef": {"name": "headgate-env"}}], PROXY, {"envFrom": [{}]}),
    ("extraVolumes", [VOLUME], POD, {"volumes": [..., VOLUME]}),
    ("extraVolumeMounts", [MOUNT], PROXY, {"volumeMounts": [..., MOUNT]}),
    ("extraContainers", [SIDECAR], POD, {"containers": [..., SIDECAR]}),
    ("initContainers", [SIDECAR], POD, {"initContainers": [SIDECAR]}),
    ("podSecurityContext", OWN_SECURITY, POD, {"securityContext": {"supplementalGroups": [2000]}}),
    (
        "podSecurityContext",
        {"fsGroupChangePolicy": "Always"},
        POD,
        {"securityContext": {"runAsUser": 10001, "fsGroupChangePolicy": "Always"}},
    ),
    ("securityContext", {"privileged": False}, PROXY, {"securityContext": {"readOnlyRootFilesystem": True}}),
    (
        "serviceAccount",
        {"annotations": {"iam": "role"}},
        ("ServiceAccount", "metadata"),
        {"annotations": {"iam": "role"}},
    ),
    ("serviceAccount", {"create": False, "name": "given"}, POD, {"serviceAccountName": "given"}),
    ("commonLabels", {"cost-centre": "4711"}, ("Service", "metadata.labels"), {"cost-centre": "4711"}),
    ("podLabels", {"team": "ai"}, ("Deployment", "spec.template.metadata.labels"), {"team": "ai"}),
    ("podAnnotations", {"a": "b"}, ("Deployment", "spec.template.metadata.annotations"), {"a": "b"}),
    (
        "deploymentAnnotations",
        {"reloader": "true"},
        ("Deployment", "metadata.annotations"),
        {"reloader": "true"},
    ),
    ("service", {"annotations": {"lb": "internal"}}, ("Service", "metadata.annotations"), {"lb": "internal"}),
    ("hostAliases", [{"ip": "10.0.0.1", "hostnames": ["ehr"]}], POD, {"hostAliases": [{"ip": "10.0.0.1"}]}),
    ("dnsConfig", {"options": [{"name": "ndots", "value": "1"}]}, POD, {"dnsConfig": {"options": [{}]}}),
    ("dnsPolicy", "Default", POD, {"dnsPolicy": "Default"}),
    ("topologySpreadConstraints", [SPREAD], POD, {"topologySpreadConstraints": [{"maxSkew": 2}]}),
    (
        "podDisruptionBudget",
        {"minAvailable": "50%"},
        ("PodDisruptionBudget", "spec"),
        {"minAvailable": "50%"},
    ),
    ("revisionHistoryLimit", 3, ("Deployment", "spec"), {"revisionHistoryLimit": 3}),
    (
        "lifecycle",
        {"postStart": {"exec": {"command": ["true"]}}},
        PROXY,
        {"lifecycle": {"postStart": {}, "preStop": {"sleep": {"seconds": 5}}}},
    ),
    ("nodeSelector", {"disk": "ssd"}, POD, {"nodeSelector": {"disk": "ssd"}}),
    ("tolerations", [{"key": "gpu", "operator": "Exists"}], POD, {"tolerations": [{"key": "gpu"}]}),
    ("affinity", {"podAntiAffinity": {}}, POD, {"affinity": {}}),
    ("priorityClassName", "high", POD, {"priorityClassName": "high"}),
    ("runtimeClassName", "gvisor", POD, {"runtimeClassName": "gvisor"}),
    ("image", {"pullSecrets": ["registry"]}, POD, {"imagePullSecrets": [{"name": "registry"}]}),
]
"""Value, what a stranger sets, and where it has to arrive: `...` is whatever stands before the last entry."""


def arrives(found: Any, wanted: Any) -> bool:
    """True if an object has at least what is wanted of it."""
    match wanted:
        case dict():
            return all(name in found and arrives(found[name], inner) for name, inner in wanted.items())
        case [first, last] if first is ...:
            return arrives(found[-1], last)
        case list():
            return len(found) == len(wanted) and all(map(arrives, found, wanted))
        case _:
            return bool(found == wanted)


def at(found: Any, path: str) -> Any:
    for name in path.split("."):
        found = found[int(name)] if name.isdecimal() else found[name]
    return found


@pytest.mark.parametrize(
    ("name", "value", "place", "wanted"), USUAL, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(USUAL)]
)
def test_a_usual_value_is_taken_and_arrives(
    name: str, value: Any, place: tuple[str, str], wanted: Any
) -> None:
    """Kubernetes takes every object that it changes."""
    kind, path = place
    base = values_of("existing-services")
    before, after = render(base), render(changed(base, {name: value}))

    assert arrives(at(after.one(kind), path), wanted)
    new = [each for each in after.objects if each not in before.objects]
    assert new
    for each in new:
        taken_by_kubernetes(each, KUBERNETES[-1])


OTHERS: dict[str, Any] = {
    "image": {"registry": "registry.hospital.example"},
    "strategy": {"rollingUpdate": {"maxSurge": "50%"}},
    "minReadySeconds": 10,
    "progressDeadlineSeconds": 300,
    "startupProbe": {"failureThreshold": 60},
    "livenessProbe": {"timeoutSeconds": 20},
    "readinessProbe": {"successThreshold": 2},
    "schedulerName": "batch",
    "enableServiceLinks": True,
    "shareProcessNamespace": True,
    "hostUsers": False,
    "service": {
        "type": "LoadBalancer",
        "nodePort": 30080,
        "labels": {"lb": "internal"},
        "loadBalancerClass": "internal",
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "externalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP",
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv4", "IPv6"],
        "trafficDistribution": "PreferClose",
    },
    "autoscaling": {"enabled": True, "behavior": {"scaleDown": {"selectPolicy": "Disabled"}}},
}
"""What charts of others take beside: oauth2-proxy's, ingress-nginx's, cert-manager's."""


def test_a_parent_chart_may_have_its_condition_and_globals() -> None:
    """Helm gives both to the chart, whose schema sees them; they change nothing."""
    values = values_of("production")

    assert render(values | {"enabled": True, "global": {"storageClass": "fast"}}) == render(values)


def test_values_of_other_charts_are_taken_and_arrive() -> None:
    """All at once; Kubernetes takes the objects, and what is not given stays as the chart has it."""
    release = render(changed(values_of("production"), OTHERS))
    deployment, pod = release.one("Deployment", RELEASE)["spec"], at(release.one(*POD[:1], RELEASE), POD[1])
    proxy, service = at(pod, "containers.0"), release.one("Service", RELEASE)
    behavior = release.one("HorizontalPodAutoscaler")["spec"]["behavior"]

    assert proxy["image"].startswith("registry.hospital.example/")
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": "50%", "maxUnavailable": 0}
    assert (deployment["minReadySeconds"], deployment["progressDeadlineSeconds"]) == (10, 300)
    assert arrives(proxy["startupProbe"], {"failureThreshold": 60, "periodSeconds": 2})
    assert arrives(proxy["livenessProbe"], {"timeoutSeconds": 20, "httpGet": {"path": "/livez"}})
    assert arrives(proxy["readinessProbe"], {"successThreshold": 2, "httpGet": {"path": "/readyz"}})
    for name in ("schedulerName", "enableServiceLinks", "shareProcessNamespace", "hostUsers"):
        assert pod[name] == OTHERS[name]
    wanted = dict(OTHERS["service"])
    assert service["spec"]["ports"][0]["nodePort"] == wanted.pop("nodePort")
    assert arrives(service["metadata"]["labels"], wanted.pop("labels"))
    assert arrives(service["spec"], wanted)
    assert arrives(behavior["scaleDown"], {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 900})
    for each in release.objects:
        if each["kind"] in {"Deployment", "Service", "HorizontalPodAutoscaler"}:
            taken_by_kubernetes(each, KUBERNETES[-1])


def test_what_is_for_both_programs_comes_to_the_controller_too() -> None:
    """Files, environment and security of the proxies' pods are the controller's as well; sidecars are not."""
    both = {
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "envFrom": [{"configMapRef": {"name": "env"}}],
        "extraVolumes": [VOLUME],
        "extraVolumeMounts": [MOUNT],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["ehr"]}],
        "extraContainers": [SIDECAR],
    }
    controller = render(changed(values_of("production"), both)).one("Deployment", "headgate-controller")
    of, pod = container(controller), controller["spec"]["template"]["spec"]

    assert of["env"][-1] == {"name": "TZ", "value": "UTC"}
    assert of["envFrom"] == both["envFrom"]
    assert (of["volumeMounts"][-1], pod["volumes"][-1]) == (MOUNT, VOLUME)
    assert pod["hostAliases"] == both["hostAliases"]
    taken_by_kubernetes(controller, KUBERNETES[-1])


def test_common_labels_are_on_everything_and_select_nothing() -> None:
    """A selector cannot change once it is installed, and labels may."""
    rendered = render(changed(values_of("production"), {"commonLabels": {"cost-centre": "4711"}}))

    for each in rendered.objects:
        assert each["metadata"]["labels"]["cost-centre"] == "4711"
        if each["kind"] == "Deployment":
            assert each["spec"]["template"]["metadata"]["labels"]["cost-centre"] == "4711"
            assert "cost-centre" not in each["spec"]["selector"]["matchLabels"]


def test_a_constraint_without_a_selector_is_about_the_proxies() -> None:
    """One that has a selector keeps it; with an empty list there is none."""
    own = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
    both = [SPREAD, {**SPREAD, "labelSelector": own}]

    pod = render(values_of("dev", topologySpreadConstraints=both)).one("Deployment")["spec"]["template"][
        "spec"
    ]
    without = render(values_of("dev", topologySpreadConstraints=[])).one("Deployment")

    selectors = [each["labelSelector"] for each in pod["topologySpreadConstraints"]]
    assert selectors[0]["matchLabels"]["app.kubernetes.io/component"] == "proxy"
    assert selectors[1] == own
    assert "topologySpreadConstraints" not in without["spec"]["template"]["spec"]


def test_a_pre_stop_of_ones_own_takes_the_place_of_the_charts() -> None:
    """Kubernetes takes one handler only."""
    own = {"preStop": {"exec": {"command": ["sleep", "9"]}}}

    assert container(render(values_of("dev", lifecycle=own)).one("Deployment"))["lifecycle"] == own


def test_a_variable_that_comes_from_elsewhere_needs_no_secret_here() -> None:
    """By its name in `extraEnv`, or, since nobody knows what is in it, by any `envFrom`."""
    values = values_of("production")
    del values["secrets"]["JWT_KEY"]
    given = [{"name": "JWT_KEY", "valueFrom": {"secretKeyRef": {"name": "vault", "key": "jwt"}}}]

    with pytest.raises(HelmError, match=r"secrets\.JWT_KEY is needed"):
        render(values)
    env = container(render({**values, "extraEnv": given}).one("Deployment"))["env"]
    render({**values, "envFrom": [{"secretRef": {"name": "vault"}}]})

    assert [each for each in env if each["name"] == "JWT_KEY"] == given


def test_a_corporate_proxy_is_named_in_both_files() -> None:
    """Its password comes from a Secret; who is behind it needs no way of its own."""
    way = {"peers": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [3128]}
    none: dict[str, Any] = {"peers": [], "ports": []}
    values = changed(
        values_of("production"),
        {
            "proxy": {
                "url": "http://corp:3128",
                "username": "house",
                "password": "${WORD}",
                "noProxy": [".svc"],
            },
            "secrets.WORD": {"name": "proxy", "key": "word"},
            "networkPolicy.to.proxy": way,
            **{f"networkPolicy.to.{name}": none for name in ("models", "unleash", "prometheus", "webhook")},
        },
    )
    rendered = render(values)
    block = {"url": "http://corp:3128", "username": "house", "password": "${WORD}", "no_proxy": [".svc"]}

    for name, file in {"headgate": "headgate.yaml", "headgate-controller": "rollout.yaml"}.items():
        document = yaml.safe_load(rendered.one("ConfigMap", name)["data"][file])
        assert document["proxy"] == (block if file == "rollout.yaml" else {**block, "upstream": False})
        assert "WORD" in {each["name"] for each in container(rendered.one("Deployment", name))["env"]}
        out = rendered.one("NetworkPolicy", name)["spec"]["egress"]
        assert {"to": way["peers"], "ports": [{"port": 3128, "protocol": "TCP"}]} in out
        taken_by_kubernetes(rendered.one("Deployment", name), KUBERNETES[-1])


REFUSED = [
    ("extraEnv", [{"name": "A B", "value": "1"}], "extraEnv"),
    ("extraEnv", [{"value": "1"}], "name"),
    (
        "extraEnv",
        [{"name": "UNLEASH_CLIENT_TOKEN", "value": "1"}],
        "secrets.UNLEASH_CLIENT_TOKEN and extraEnv",
    ),
    ("extraVolumes", [{"emptyDir": {}}], "name"),
    ("podDisruptionBudget", {"maxUnavailable": "half"}, "maxUnavailable"),
    ("serviceAccount", {"token": True}, "token"),
    ("dnsPolicy", "Somewhere", "dnsPolicy"),
    ("commonLabels", {"app.kubernetes.io/name": "mine"}, "is the chart's own"),
    ("podLabels", {"app.kubernetes.io/component": "mine"}, "is the chart's own"),
    ("authorities", {"configMap": "a", "secret": "b"}, "authorities.configMap and authorities.secret"),
    ("proxy", {"url": "http://a", "password": "in plain sight"}, "password"),
    ("proxy", {"url": "http://a"}, "networkPolicy.to.proxy needs"),
    ("autoscaling", {"enabled": True, "cpu": None}, "autoscaling.cpu or autoscaling.viewers is needed"),
    ("monitoring", {"serviceMonitor": {"scrapeTimeout": "20s"}}, "longer than the interval"),
]


@pytest.mark.parametrize(
    ("name", "value", "said"), REFUSED, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(REFUSED)]
)
def test_what_cannot_be_is_still_refused_by_its_name(name: str, value: Any, said: str) -> None:
    """The chart is open, and has its schema: a slip is found before anything is installed."""
    with pytest.raises(HelmError) as refused:
        render(changed(values_of("existing-services"), {name: value}))

    assert said in str(refused.value)


def test_one_label_in_two_places_is_refused() -> None:
    """Kubernetes would take one of both, and nobody knows which."""
    twice = {"commonLabels": {"team": "a"}, "podLabels": {"team": "b"}}
    with pytest.raises(HelmError, match="commonLabels and podLabels both have team"):
        render(changed(values_of("dev"), twice))


def test_replicas_may_follow_the_viewers() -> None:
    """By the custom metric that an adapter makes of `headgate_viewers`, beside the CPU or alone."""
    scaling = {"enabled": True, "viewers": 300}
    both = render(values_of("production", autoscaling=scaling)).one("HorizontalPodAutoscaler")
    alone = render(values_of("production", autoscaling={**scaling, "cpu": None})).one(
        "HorizontalPodAutoscaler"
    )

    viewers = {
        "type": "Pods",
        "pods": {
            "metric": {"name": "headgate_viewers"},
            "target": {"type": "AverageValue", "averageValue": "300"},
        },
    }
    assert [each["type"] for each in both["spec"]["metrics"]] == ["Resource", "Pods"]
    assert alone["spec"]["metrics"] == [viewers]
    taken_by_kubernetes(both, KUBERNETES[-1])


def test_the_monitor_has_relabelings_and_a_timeout() -> None:
    """The operator's own definition has both."""
    own = {
        "enabled": True,
        "scrapeTimeout": "10s",
        "annotations": {"a": "b"},
        "relabelings": [{"targetLabel": "cluster", "replacement": "ward"}],
        "metricRelabelings": [{"sourceLabels": ["le"], "regex": "0.005", "action": "drop"}],
    }
    monitor = render(values_of("production", monitoring={"serviceMonitor": own})).one("ServiceMonitor")
    endpoint = monitor["spec"]["endpoints"][0]

    assert endpoint["scrapeTimeout"] == "10s"
    assert endpoint["relabelings"] == own["relabelings"]
    assert endpoint["metricRelabelings"] == own["metricRelabelings"]
    assert monitor["metadata"]["annotations"] == {"a": "b"}
    taken_by_kubernetes(monitor, KUBERNETES[-1])


def test_extra_objects_come_with_the_release() -> None:
    """Names of the release are filled in."""
    own = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "{{ .Release.Name }}-notes"},
        "data": {"a": "b"},
    }

    assert render(values_of("dev", extraObjects=[own])).one("ConfigMap", f"{RELEASE}-notes")["data"] == {
        "a": "b"
    }


def test_openshift_gives_users_and_groups_itself() -> None:
    """`restricted-v2` admits no pod that asks for numbers of its own; all else stays."""
    for each in render(values_of("openshift")).deployments():
        assert each["spec"]["template"]["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_the_charts_test_is_a_hook_and_closes_the_way_it_opens() -> None:
    """`helm test` asks both ports. Its way in is there only while it runs, and for its pod alone."""
    rendered = render(values_of("production"))
    pod = rendered.one("Pod", "headgate-test")
    way = rendered.one("NetworkPolicy", "headgate-test")

    for each in (pod, way):
        assert each["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert "hook-succeeded" in each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    labels = way["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert labels.items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["containers"][0]["args"][1:] == [
        "http://headgate-admin:9464/readyz",
        "http://headgate:80/_headgate/client.js",
    ]


@pytest.mark.parametrize(
    ("given", "volume"),
    [
        ({"configMap": "bundle"}, {"configMap": {"name": "bundle"}}),
        ({"secret": "bundle", "key": "tls.pem"}, {"secret": {"secretName": "bundle"}}),
    ],
    ids=["ConfigMap", "Secret"],
)
def test_private_authorities_are_mounted_and_named_in_both_files(
    given: dict[str, str], volume: dict[str, Any]
) -> None:
    """trust-manager makes one file, for the proxies and the controller."""
    rendered = render(values_of("production", authorities=given))
    path = f"/etc/headgate-authorities/{given.get('key', 'ca.crt')}"

    for name, file in {"headgate": "headgate.yaml", "headgate-controller": "rollout.yaml"}.items():
        deployment = rendered.one("Deployment", name)
        document = yaml.safe_load(rendered.one("ConfigMap", name)["data"][file])
        assert document["tls"]["ca_file"] == path
        assert {"name": "authorities", **volume} in deployment["spec"]["template"]["spec"]["volumes"]
        mounts = {each["name"]: each["mountPath"] for each in container(deployment)["volumeMounts"]}
        assert path.startswith(f"{mounts['authorities']}/")
        taken_by_kubernetes(deployment, KUBERNETES[-1])
    assert "authorities" not in str(render(values_of("production")).one("Deployment"))
