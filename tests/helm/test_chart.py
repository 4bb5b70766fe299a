"""The chart, as Helm renders it and Kubernetes would take it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart, HelmError, lint

from dashboards.place import Place
from dashboards.rules import groups
from docs.chart_values import Values
from flags.rollout.policy import file as policy_file
from proxy.settings import file as settings_file
from tests.helm.charting import (
    CHART,
    EXAMPLES,
    KUBERNETES,
    NAMESPACE,
    Rendered,
    changed,
    container,
    render,
    taken_by_kubernetes,
    values_of,
)

NAMES = [path.stem for path in EXAMPLES]


@pytest.fixture(scope="module", params=NAMES)
def example(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def text_of(rendered: Rendered, name: str, key: str) -> str:
    return str(rendered.one("ConfigMap", name)["data"][key])


# --- every example


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object_of_every_example(example: str, version: str) -> None:
    """Strictly: a name it does not know is a mistake."""
    for found in render(values_of(example)).objects:
        taken_by_kubernetes(found, version)


def test_helm_has_nothing_to_say_about_the_chart(example: str) -> None:
    """`helm lint --strict` with the example's values."""
    result = lint(str(CHART), values=values_of(example), strict=True)

    # An icon would be a URL to somewhere.
    assert [message["error"] for message in result["messages"]] == ["icon is recommended"]
    assert result["errors"] == []


def test_headgate_takes_the_settings_of_every_example(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the policy: what the ConfigMaps hold is read by the code that will read it."""
    values = values_of(example)
    rendered = render(values)
    for name in values.get("secrets", {}):
        secret = "a-secret-of-32-characters-or-more"
        monkeypatch.setenv(name, f"https://example.org/{secret}" if "WEBHOOK" in name else secret)
    files = {"headgate.yaml": "headgate", "rollout.yaml": "headgate-controller"}
    for file, name in files.items():
        if ("ConfigMap", name) in rendered.kinds():
            (tmp_path / file).write_text(text_of(rendered, name, file))

    settings = settings_file.load(tmp_path / "headgate.yaml")

    assert settings.drain_s == values.get("drainSeconds", 120)
    assert (tmp_path / "rollout.yaml").exists() == bool(values.get("controller"))
    if values.get("controller"):
        assert policy_file.load(tmp_path / "rollout.yaml").lease.kubernetes is not None


def test_the_values_file_says_what_the_models_say() -> None:
    """The defaults of `values.yaml` are those that the README names."""
    said = yaml.safe_load((CHART / "values.yaml").read_text())
    models = Values.model_construct().model_dump(by_alias=True, exclude={"settings", "global_"})

    assert {name: value for name, value in said.items() if name != "settings"} == models


def test_the_chart_without_values_says_what_it_needs() -> None:
    """Nothing is guessed: an upstream and a route must be named."""
    with pytest.raises(HelmError, match=r"settings.*missing propert.*upstream"):
        render({})


# --- what is refused

WRONG = [
    ("replicas", "two", "replicas"),
    ("replicas", 0, "replicas"),
    ("replica", 2, "replica"),
    ("settings.routs", [], "routs"),
    ("settings.routes.0.source", "magic", "source"),
    ("settings.upstream.timeouts", {"idle": 5}, "idle"),
    ("settings.listen", "0.0.0.0:80", "listen"),
    ("settings.drain_s", 5, "drain_s"),
    ("settings.admin_token", "hunter2", "admin_token"),
    ("settings.event_log.valkey.key", "k" * 40, "key"),
    ("secrets.lower_case", {"name": "a", "key": "b"}, "lower_case"),
    ("secrets.TOKEN", "hunter2", "TOKEN"),
    ("controller.policy.steps.0.share", 0.5, "share"),
    ("controller.policy.steps.0.at_least", 60, "at_least"),
    ("controller.policy.where.unleash.token", "hunter2", "token"),
    ("controller.policy.journal", "/tmp/journal", "journal"),
    ("controller.policy.evidence", {"pages": ["http://a"]}, "pages"),
    ("controller.storage.size", "lots", "size"),
    ("image.digest", "latest", "digest"),
    ("expose.through", "some", "through"),
    ("networkPolicy.to.internet", {}, "internet"),
    ("monitoring.rules.runbooks", "wiki", "runbooks"),
    ("drainSeconds", 4000, "drainSeconds"),
]


@pytest.mark.parametrize(
    ("path", "value", "named"), WRONG, ids=[f"{path}={value}" for path, value, _ in WRONG]
)
def test_a_wrong_value_is_refused_by_its_name(path: str, value: Any, named: str) -> None:
    """By the schema, before anything is rendered."""
    values = changed(values_of("production"), {path: value})

    with Chart.load(str(CHART)) as chart, pytest.raises(HelmError, match=re.escape(named)):
        chart.validate_schema(values)


SHARDS = {
    "key": "${HEADGATE_VALKEY_KEY}",
    "shards": {name: f"rediss://:${{VALKEY_PASSWORD}}@{name}.data:6379" for name in ("one", "two")},
}

CONTRADICTIONS = [
    ("dev", {"replicas": 2}, "settings.event_log.valkey is needed"),
    ("dev", {"workers": 2}, "settings.event_log.valkey is needed"),
    ("dev", {"autoscaling.enabled": True}, "settings.event_log.valkey is needed"),
    ("dev", {"flagFile": None}, "settings.flags.unleash is needed"),
    ("production", {"settings.identity.jwt.key": "${NO_KEY}"}, "secrets.NO_KEY is needed"),
    ("production", {"flagFile": {"version": 2, "features": []}}, "both set"),
    ("production", {"valkey.enabled": True}, "both set"),
    ("production", {"valkey.enabled": True, "settings.event_log.valkey": SHARDS}, "both set"),
    ("production", {"settings.event_log": {"valkey": {"key": "${K}"}}}, "settings.event_log.valkey.url"),
    ("production", {"autoscaling.max": 1}, "autoscaling.max"),
    ("production", {"autoscaling.min": 1}, "autoscaling.min is 1: with one replica of the model port"),
    ("production", {"autoscaling.enabled": False, "replicas": 1}, "replicas is 1: with one replica"),
    ("production", {"modelPort": {"ownDeployment": True, "replicas": 1}}, "modelPort.replicas is 1"),
    (
        "production",
        {
            "modelPort": {"ownDeployment": True},
            "settings.event_log": {},
            "autoscaling.enabled": False,
            "replicas": 1,
        },
        "settings.event_log.valkey is needed for modelPort.ownDeployment",
    ),
    ("production", {"controller.policy": None}, "controller.policy is needed"),
    ("production", {"expose.upstream": None}, "expose.upstream is needed"),
    ("production", {"expose.httpRoute.parentRefs": []}, "parentRefs is needed"),
    ("production", {"networkPolicy.to.models": None}, "networkPolicy.to.models needs peers and ports"),
    ("production", {"networkPolicy.to.webhook": None}, "networkPolicy.to.webhook needs peers and ports"),
    (
        "existing-services",
        {"networkPolicy.to.upstream": None},
        "networkPolicy.to.upstream needs peers and ports",
    ),
]


@pytest.mark.parametrize(
    ("of", "changes", "said"), CONTRADICTIONS, ids=[said for _, _, said in CONTRADICTIONS]
)
def test_values_that_contradict_each_other_are_refused(of: str, changes: dict[str, Any], said: str) -> None:
    """The message names the value and the mend."""
    with pytest.raises(HelmError, match=re.escape(said)):
        render(changed(values_of(of), changes))


# --- what every pod is


def pods(rendered: Rendered) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each pod's spec and its container."""
    for deployment in rendered.deployments():
        yield deployment["spec"]["template"]["spec"], container(deployment)


def test_pods_meet_the_restricted_standard(example: str) -> None:
    """Non-root, no privileges, the default seccomp profile, a read-only root file system."""
    for pod, of in pods(render(values_of(example))):
        assert pod["securityContext"]["runAsNonRoot"] is True
        # OpenShift has no pod but with a user of its own choice.
        assert pod["securityContext"].get("runAsUser") == (None if example == "openshift" else 10001)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert of["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_only_the_controller_has_a_token_of_the_cluster() -> None:
    """For its Lease, in its own namespace, and nothing else."""
    rendered = render(values_of("production"))
    mounted = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["automountServiceAccountToken"]
        for each in rendered.deployments()
    }

    assert mounted == {"headgate": False, "headgate-controller": True}
    assert rendered.one("Role", "headgate-controller")["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["headgate-controller"],
            "verbs": ["get", "update"],
        },
    ]


def test_secrets_are_references(example: str) -> None:
    """No environment variable has a value, and no Secret is made: what is secret is elsewhere already."""
    rendered = render(values_of(example))

    for _, of in pods(rendered):
        for variable in of.get("env", []):
            assert set(variable["valueFrom"]) == {"secretKeyRef"}
    assert "Secret" not in {kind for kind, _ in rendered.kinds()}


def test_each_pod_is_given_the_secrets_it_refers_to_and_no_others() -> None:
    """The controller's token of Unleash is not the proxies', and the other way about."""
    names = {
        deployment["metadata"]["name"]: {variable["name"] for variable in container(deployment)["env"]}
        for deployment in render(values_of("production")).deployments()
    }

    assert names["headgate-controller"] == {"UNLEASH_ADMIN_TOKEN", "ONCALL_WEBHOOK"}
    assert names["headgate"] == set(values_of("production")["secrets"]) - names["headgate-controller"]


@pytest.mark.parametrize(
    ("changes", "deployment", "rolls"),
    [
        ({"settings.log": {"level": "debug"}}, "headgate", True),
        ({"drainSeconds": 60}, "headgate", True),
        ({"controller.policy.mode": "auto"}, "headgate", False),
        ({"controller.policy.mode": "auto"}, "headgate-controller", True),
        ({"monitoring.dashboards.enabled": False}, "headgate", False),
    ],
    ids=["settings", "drain", "policy, proxies", "policy, controller", "dashboards"],
)
def test_pods_are_rolled_by_what_they_read(changes: dict[str, Any], deployment: str, rolls: bool) -> None:
    """A checksum of their file is in their template; nothing else restarts them."""
    values = values_of("production")
    before, after = (
        render(each).one("Deployment", deployment) for each in (values, changed(values, changes))
    )
    key = "annotations"

    assert (
        before["spec"]["template"]["metadata"][key] != after["spec"]["template"]["metadata"][key]
    ) is rolls


def test_a_change_of_the_flag_file_rolls_nothing() -> None:
    """It is mounted as a folder, so that a running pod sees it."""
    values = values_of("dev")
    other = changed(values, {"flagFile": {"version": 2, "features": []}})
    proxy = container(render(values).one("Deployment"))

    assert render(values).one("Deployment") == render(other).one("Deployment")
    assert {m["mountPath"]: m.get("subPath") for m in proxy["volumeMounts"]}["/etc/headgate/flags"] is None


def test_replicas_spread_over_zones_and_nodes() -> None:
    """They spread as far as there are zones and nodes, each version for itself."""
    spread = render(values_of("production")).one("Deployment")["spec"]["template"]["spec"][
        "topologySpreadConstraints"
    ]

    assert [each["topologyKey"] for each in spread] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}


# --- coming and going


@pytest.mark.parametrize("drain_s", [1, 120, 3600])
def test_a_pod_has_the_time_to_drain(drain_s: int) -> None:
    """Grace period, preStop and the proxy's own setting come from one value, and leave a margin."""
    rendered = render(values_of("dev", drainSeconds=drain_s))
    pod = rendered.one("Deployment")["spec"]["template"]["spec"]
    stop_s = container(rendered.one("Deployment"))["lifecycle"]["preStop"]["sleep"]["seconds"]
    settings = yaml.safe_load(text_of(rendered, "headgate", "headgate.yaml"))

    assert settings["drain_s"] == drain_s
    assert pod["terminationGracePeriodSeconds"] == stop_s + drain_s + 10
    assert stop_s == 5


def test_no_probe_asks_the_upstream() -> None:
    """They ask the admin port, which answers while the upstream blocks."""
    proxy = container(render(values_of("production")).one("Deployment"))
    probes = {name: proxy[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}

    assert probes == {
        "startup": {"path": "/livez", "port": "admin"},
        "liveness": {"path": "/livez", "port": "admin"},
        "readiness": {"path": "/readyz", "port": "admin"},
    }


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_a_node_can_be_drained_and_never_takes_all_replicas(replicas: int) -> None:
    """One at a time: a single replica does not block the node, and of several all but one stay."""
    budget = render(values_of("existing-services", replicas=replicas)).one("PodDisruptionBudget")["spec"]

    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_replicas_go_slowly() -> None:
    """One at a time, no sooner than the one before has drained. The Deployment does not set their number."""
    rendered = render(values_of("production"))
    down = rendered.one("HorizontalPodAutoscaler")["spec"]["behavior"]["scaleDown"]

    assert down["stabilizationWindowSeconds"] == 900
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]
    assert "replicas" not in rendered.one("Deployment")["spec"]
    assert render(values_of("existing-services")).one("Deployment")["spec"]["replicas"] == 2


def test_an_update_takes_no_replica_before_another_is_ready() -> None:
    """Of the proxies. Of the controller there is never more than one."""
    rendered = render(values_of("production"))
    proxy = rendered.one("Deployment")["spec"]
    controller = rendered.one("Deployment", "headgate-controller")["spec"]

    assert proxy["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert (controller["replicas"], controller["strategy"]) == (1, {"type": "Recreate"})


def test_the_controller_has_a_lease_a_journal_that_stays_and_metrics() -> None:
    """The chart sets all three; the claim outlives the release."""
    rendered = render(values_of("production"))
    policy = yaml.safe_load(text_of(rendered, "headgate-controller", "rollout.yaml"))
    claim = rendered.one("PersistentVolumeClaim", "headgate-controller")
    mounts = {
        m["name"]: m["mountPath"]
        for m in container(rendered.one("Deployment", "headgate-controller"))["volumeMounts"]
    }

    assert policy["lease"] == {"kubernetes": {"namespace": NAMESPACE, "name": "headgate-controller"}}
    assert policy["journal"].startswith(mounts["journal"] + "/")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert policy["listen"].endswith(":9465")


# --- ways in


def through_ingress(rendered: Rendered, path: str) -> str:
    """Return the Service that a path goes to: of Prefix paths, the longest that matches by whole segments."""
    (rule,) = rendered.one("Ingress")["spec"]["rules"]
    parts = path.strip("/").split("/")
    matching = [
        (len(each["path"]), each["backend"]["service"]["name"])
        for each in rule["http"]["paths"]
        if each["path"] == "/" or parts[: each["path"].count("/")] == each["path"].strip("/").split("/")
    ]
    return max(matching)[1]


def through_gateway(rendered: Rendered, method: str, path: str) -> str:
    """The same for the HTTPRoute; a pattern is of the whole path, and before a prefix."""
    found = []
    for rule in rendered.one("HTTPRoute")["spec"]["rules"]:
        (backend,) = rule["backendRefs"]
        for match in rule["matches"]:
            value, pattern = match["path"]["value"], match["path"]["type"] == "RegularExpression"
            fits = re.fullmatch(value, path) if pattern else (path + "/").startswith(value.rstrip("/") + "/")
            if fits and match.get("method", method) == method:
                found.append((pattern, len(value), backend["name"]))
    return max(found)[2]


REQUESTS = [
    ("POST", "/api/cases/7/workflow/start", "headgate"),
    ("GET", "/api/cases/7/workflow/start/stream", "headgate"),
    ("GET", "/_headgate/runs/x/events", "headgate"),
    ("GET", "/api/cases/7/workflow/start", "clinic"),
    ("POST", "/api/cases/7/other/workflow/start", "clinic"),
    ("POST", "/api/cases/7", "clinic"),
    ("GET", "/", "clinic"),
    ("GET", "/_headgated", "clinic"),
]


@pytest.mark.parametrize(("method", "path", "goes_to"), REQUESTS)
def test_the_gateway_sends_the_routes_to_headgate_and_the_rest_straight_on(
    method: str, path: str, goes_to: str
) -> None:
    """By method and pattern, so that no other request takes the way through Headgate."""
    assert through_gateway(render(values_of("production")), method, path) == goes_to


INGRESS = {"enabled": True, "className": "nginx", "host": "clinic.example.org"}


@pytest.mark.parametrize(
    ("path", "goes_to"),
    [
        ("/api/cases/7/workflow/start", "headgate"),
        ("/_headgate/client.js", "headgate"),
        ("/api/cases", "headgate"),
        ("/api/patients/7", "clinic"),
        ("/", "clinic"),
        ("/_headgated", "clinic"),
    ],
)
def test_the_ingress_sends_what_begins_as_a_route_does(path: str, goes_to: str) -> None:
    """It has no methods and no patterns; what is no route is relayed."""
    rendered = render(changed(values_of("production"), {"expose.ingress": INGRESS}))

    assert through_ingress(rendered, path) == goes_to


@pytest.mark.parametrize("path", ["/", "/api/cases/7/workflow/start", "/anything"])
def test_by_choice_everything_goes_through_headgate(path: str) -> None:
    """Both ways in."""
    everything = {"expose.ingress": INGRESS, "expose.through": "everything"}
    rendered = render(changed(values_of("production"), everything))

    assert through_ingress(rendered, path) == "headgate"
    assert through_gateway(rendered, "GET", path) == "headgate"


def test_a_route_at_the_top_takes_the_prefix_of_everything() -> None:
    """Then there is nothing left to send straight on."""
    values = changed(
        values_of("production"), {"settings.routes.0.match": "POST /{tenant}/ask", "expose.ingress": INGRESS}
    )

    assert through_ingress(render(values), "/a/b") == "headgate"


def test_no_gateway_cuts_a_stream() -> None:
    """The route's own limit is off wherever Headgate answers."""
    for rule in render(values_of("production")).one("HTTPRoute")["spec"]["rules"]:
        assert (rule["backendRefs"][0]["name"] == "headgate") is (rule.get("timeouts") == {"request": "0s"})


def test_admin_and_model_port_are_in_no_public_service() -> None:
    """They have Services of their own, inside the cluster."""
    rendered = render(values_of("production", service={"type": "LoadBalancer"}))
    public = rendered.one("Service")["spec"]

    assert [port["targetPort"] for port in public["ports"]] == ["public"]
    for name in ("headgate-admin", "headgate-model", "headgate-controller"):
        assert rendered.one("Service", name)["spec"]["type"] == "ClusterIP"


# --- the model port, which every model call of the upstream takes


def test_a_single_model_port_is_there_only_for_who_says_so() -> None:
    """While it is away, model calls of all users fail."""
    alone = {"autoscaling.enabled": False, "replicas": 1, "modelPort": {"oneIsEnough": True}}

    assert render(changed(values_of("production"), alone)).one("Deployment")["spec"]["replicas"] == 1


def test_the_model_port_may_have_pods_of_its_own() -> None:
    """Its Service leads to them alone, the public one never, and one of them stays when a node is drained."""
    own = {"modelPort": {"ownDeployment": True, "resources": {"requests": {"cpu": "1"}}}}
    values = changed(values_of("production"), own)
    rendered = render(values)
    model = rendered.one("Deployment", "headgate-model")
    selector = rendered.one("Service", "headgate-model")["spec"]["selector"]

    assert selector == model["spec"]["selector"]["matchLabels"]
    assert selector.items() <= model["spec"]["template"]["metadata"]["labels"].items()
    assert rendered.one("Service")["spec"]["selector"] != selector
    assert (model["spec"]["replicas"], container(model)["resources"]) == (2, {"requests": {"cpu": "1"}})
    assert rendered.one("PodDisruptionBudget", "headgate-model")["spec"]["maxUnavailable"] == 1
    assert text_of(rendered, "headgate", "headgate.yaml") == text_of(
        render(values_of("production")), "headgate", "headgate.yaml"
    )
    for found in rendered.objects:
        taken_by_kubernetes(found, KUBERNETES[-1])


def test_pods_of_the_model_port_are_let_in_and_out_as_they_need() -> None:
    """The upstream comes to them and no longer to the proxies; nobody comes to their public port."""
    values = changed(values_of("production"), {"modelPort": {"ownDeployment": True}})
    rendered = render(values)
    proxy, model = (rendered.one("NetworkPolicy", name)["spec"] for name in ("headgate", "headgate-model"))

    assert [rule["ports"][0]["port"] for rule in proxy["ingress"]] == ["public", "admin"]
    assert {rule["ports"][0]["port"]: rule["from"] for rule in model["ingress"]} == {
        "admin": values["networkPolicy"]["admin"],
        "model": values["networkPolicy"]["model"],
    }
    assert model["egress"] == proxy["egress"]


def test_prometheus_finds_the_pods_of_the_model_port() -> None:
    """They are the same job, since their counters are Headgate's."""
    rendered = render(changed(values_of("production"), {"modelPort": {"ownDeployment": True}}))
    wanted = rendered.one("ServiceMonitor")["spec"]["selector"]["matchLabels"].items()

    assert wanted <= rendered.one("Service", "headgate-model-admin")["metadata"]["labels"].items()


# --- the network


def ways_out(policy: dict[str, Any]) -> dict[int, list[Any]]:
    return {port["port"]: rule["to"] for rule in policy["spec"]["egress"] for port in rule["ports"]}


def test_the_only_ways_out_are_those_that_are_used() -> None:
    """Proxies: DNS, upstream, Unleash, Valkey, the models and the controller's metrics. Controller: not the
    upstream."""
    rendered = render(values_of("production"))
    to = values_of("production")["networkPolicy"]["to"]
    proxy, controller = (
        ways_out(rendered.one("NetworkPolicy", n)) for n in ("headgate", "headgate-controller")
    )

    assert set(proxy) == {53, 8000, 4242, 6379, 443, 9465}
    assert proxy[8000] == to["upstream"]["peers"]
    assert proxy[443] == to["models"]["peers"]
    assert set(controller) == {53, 4242, 9090, 443, 6443}
    assert all(rule["to"] for rule in rendered.one("NetworkPolicy")["spec"]["egress"])


def test_the_operators_page_finds_the_controller() -> None:
    """Its Service is in the settings, and only proxies, and whoever may read metrics, reach that port."""
    rendered = render(values_of("production"))
    settings = yaml.safe_load(text_of(rendered, "headgate", "headgate.yaml"))
    ins = rendered.one("NetworkPolicy", "headgate-controller")["spec"]["ingress"]
    alone = changed(values_of("production"), {"controller.enabled": False})

    assert settings["controller"] == "http://headgate-controller:9465"
    assert rendered.one("Service", "headgate-controller")["spec"]["ports"][0]["port"] == 9465
    assert ins[-1]["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "proxy"
    assert "controller" not in yaml.safe_load(text_of(render(alone), "headgate", "headgate.yaml"))
    assert 9465 not in ways_out(render(alone).one("NetworkPolicy"))


def test_an_upstream_without_a_model_needs_no_way_to_one() -> None:
    """A way that the settings do not need is not opened, even if the values name it."""
    values = changed(values_of("production"), {"settings.llm": None, "settings.routes.0.source": "batch"})
    del values["settings"]["routes"][0]["tap"]

    assert 443 not in ways_out(render(values).one("NetworkPolicy"))


def test_the_admin_port_is_prometheuss_and_the_model_port_the_upstreams() -> None:
    """Without a name in the values, nobody comes in."""
    values = values_of("production")
    ins = render(values).one("NetworkPolicy")["spec"]["ingress"]
    none = render(changed(values, {"networkPolicy.admin": [], "networkPolicy.model": []}))

    assert {rule["ports"][0]["port"]: rule["from"] for rule in ins} == {
        "public": values["networkPolicy"]["public"],
        "admin": values["networkPolicy"]["admin"],
        "model": values["networkPolicy"]["model"],
    }
    assert [r["ports"][0]["port"] for r in none.one("NetworkPolicy")["spec"]["ingress"]] == ["public"]


def test_the_bundled_store_is_for_the_proxies_alone() -> None:
    """It has no password: the network keeps others out. It goes nowhere itself."""
    rendered = render(values_of("existing-services"))
    policy = rendered.one("NetworkPolicy", "headgate-valkey")["spec"]
    settings = yaml.safe_load(text_of(rendered, "headgate", "headgate.yaml"))

    assert (
        policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        == "proxy"
    )
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    assert settings["event_log"]["valkey"]["url"] == "redis://headgate-valkey:6379"


def test_the_store_may_have_shards() -> None:
    values = changed(values_of("production"), {"settings.event_log.valkey": SHARDS})
    with Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
    settings = yaml.safe_load(text_of(render(values), "headgate", "headgate.yaml"))

    assert settings["event_log"]["valkey"] == SHARDS


# --- watched


def test_prometheus_finds_proxies_and_controller_as_one_job() -> None:
    """The monitor selects their Services by label, and by the name of a port that both have."""
    rendered = render(values_of("production"))
    monitor = rendered.one("ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    found = [
        each
        for each in rendered.objects
        if each["kind"] == "Service" and wanted <= each["metadata"]["labels"].items()
    ]

    assert {each["metadata"]["name"] for each in found} == {"headgate-admin", "headgate-controller"}
    assert all(each["spec"]["ports"][0]["name"] == monitor["endpoints"][0]["port"] for each in found)
    assert {each["metadata"]["labels"][monitor["jobLabel"]] for each in found} == {"headgate"}


def test_the_alerts_are_the_projects_own_and_lead_to_the_runbooks() -> None:
    """Every rule, about the release's own series, with the place of the runbooks and the labels put in."""
    values = changed(values_of("production"), {"monitoring.rules.alertLabels": {"team": "ai"}})
    rule = render(values).one("PrometheusRule")
    place = Place(
        "https://wiki.example.org/headgate/runbooks", 'namespace="clinic",job="headgate"', {"team": "ai"}
    )

    assert rule["spec"]["groups"] == groups(place)
    taken_by_kubernetes(rule, KUBERNETES[-1])


def test_the_rules_of_two_releases_are_about_their_own() -> None:
    """In one namespace their names, which are their jobs, tell them apart; or a selector of yours does."""
    second = changed(values_of("production"), {"nameOverride": "second"})
    own = changed(second, {"monitoring.rules.selector": 'cluster="ward"'})
    said = [
        str(each["spec"])
        for each in (render(values).one("PrometheusRule", "headgate-second") for values in (second, own))
    ]

    assert 'namespace="clinic",job="second"' in said[0]
    assert 'cluster="ward"' in said[1]
    assert not [text for text in said if "$selector$" in text]


def boards(rendered: Rendered) -> list[dict[str, Any]]:
    """The dashboards of the ConfigMaps that Grafana's sidecar takes."""
    maps = [each for each in rendered.objects if "grafana_dashboard" in each["metadata"]["labels"]]
    return [json.loads(text) for each in maps for text in each["data"].values()]


def test_the_dashboards_are_the_projects_own() -> None:
    """All three, for Grafana's sidecar, each in a ConfigMap of its own; but for UID and title as they are."""
    found = {each["uid"].rpartition("-")[0]: each for each in boards(render(values_of("production")))}

    for path in (CHART / "files" / "dashboards").glob("*.json"):
        own = json.loads(path.read_text())
        there = found.pop(own["uid"])
        assert there["title"] == f"{own['title']} (clinic/headgate)"
        assert there["panels"][0] == own["panels"][0]
    assert found == {}


def test_the_dashboards_of_two_releases_are_two() -> None:
    """In Grafana a UID is there once, and a title once in a folder."""
    one = boards(render(values_of("production")))
    other = boards(render(values_of("production", fullnameOverride="second")))

    assert not {each["uid"] for each in one} & {each["uid"] for each in other}
    assert not {each["title"] for each in one} & {each["title"] for each in other}
    assert max(len(each["uid"]) for each in one) <= 40


# --- the release


@pytest.mark.parametrize(
    "name", ["headgate", "clinic", "a-very-long-name-of-a-release-that-goes-on-and-on-and"]
)
def test_no_name_is_too_long(name: str) -> None:
    """Names of Services are at most 63 characters, with what the chart adds."""
    with Chart.load(str(CHART)) as chart:
        files = chart.render(values_of("production"), name=name, namespace=NAMESPACE)
    names = [
        found["metadata"]["name"]
        for path, text in files.items()
        if path.endswith(".yaml")
        for found in yaml.load_all(text, Loader=yaml.CSafeLoader)
        if found
    ]

    assert max(map(len, names)) <= 63
    assert len({*names}) < len(names)


def test_the_notes_say_what_to_do_next(example: str) -> None:
    """And that nobody moves the share, where nobody does."""
    values = values_of(example)
    notes = render(values).notes

    assert ("controller.enabled is false" in notes) is not bool(values.get("controller"))
    assert "http://headgate.clinic:80" in notes


def test_the_package_has_what_the_chart_reads(tmp_path: Path) -> None:
    """Packed and unpacked again it renders the same."""
    with Chart.load(str(CHART)) as chart:
        packed = chart.save(str(tmp_path))
        loose = chart.render(values_of("production"), name="headgate", namespace=NAMESPACE)
    with Chart.load(packed) as chart:
        assert chart.render(values_of("production"), name="headgate", namespace=NAMESPACE) == loose
