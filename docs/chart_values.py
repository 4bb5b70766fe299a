"""The chart's values, as models. `chart` writes their schema and their README."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dashboards.place import RUNBOOKS
from flags.rollout.policy.policy import Policy
from proxy.settings.settings import Settings

Object = dict[str, Any]
"""An object of Kubernetes, passed through."""
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
HostName = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


Named = Annotated[Object, Field(json_schema_extra={"required": ["name"]})]
"""An object of Kubernetes in a list whose entries have names."""
ShortTime = Annotated[str, Field(pattern=r"^[1-9][0-9]*s$")]
Count = Annotated[int, Field(ge=0, le=100)] | Annotated[str, Field(pattern=r"^(100|[1-9]?[0-9])%$")]
"""Of pods, or a percentage."""


class Block(BaseModel):
    """A block of values: closed to names it does not know, and in camelCase as charts have it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, alias_generator=to_camel
    )


class Image(Block):
    """Headgate's image."""

    registry: str = ""
    """Before the repository; empty: the repository says it."""
    repository: Annotated[str, Field(min_length=1)] = "headgate"
    """Including its registry, if `registry` is empty."""
    tag: str = ""
    """Empty: the chart's `appVersion`."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """`sha256:…`. It takes precedence over the tag."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pull_secrets: list[Name] = []
    """Names of Secrets."""


class SecretKey(Block):
    """One key of an existing Secret."""

    name: Name
    """Name of the Secret."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]
    """Key in the Secret."""


class Autoscaling(Block):
    """By CPU, by viewers or both: fast up and slow down, since each scale-down cuts streams."""

    enabled: bool = False
    min: Annotated[int, Field(ge=1, le=100)] = 2
    max: Annotated[int, Field(ge=1, le=100)] = 6
    cpu: Annotated[int, Field(ge=10, le=100)] | None = 70
    """Percent of the CPU request; `null`: not by CPU."""
    viewers: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Viewers of a pod, on average. By the custom metric `headgate_viewers` of pods, which a metrics adapter
    has to serve."""
    scale_down_after_s: Annotated[int, Field(ge=0, le=3600)] = 900
    """Seconds that the load must be lower. Then replicas are removed one by one, each after the last has
    drained."""
    behavior: Object = {}
    """Changes the names given of the autoscaler's behaviour."""


class Service(Block):
    """The public Service."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    port: Port = 80
    node_port: Port | None = None
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    load_balancer_class: str = ""
    load_balancer_source_ranges: list[str] = []
    external_traffic_policy: Literal["", "Cluster", "Local"] = ""
    session_affinity: Literal["", "None", "ClientIP"] = ""
    """Not needed: any replica shows any run, with `settings.event_log.valkey`."""
    ip_family_policy: Literal["", "SingleStack", "PreferDualStack", "RequireDualStack"] = ""
    ip_families: list[Literal["IPv4", "IPv6"]] = []
    traffic_distribution: str = ""


class AdminService(Block):
    """The Service of the admin port, for Prometheus."""

    annotations: dict[str, str] = {}


class PrivateAuthorities(Block):
    """Certificates of your authorities, as `tls.ca_file` of settings and policy: a ConfigMap or a Secret,
    such as a Bundle of trust-manager makes."""

    config_map: str = ""
    """Name of a ConfigMap."""
    secret: str = ""
    """Name of a Secret."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")] = "ca.crt"
    """Key in it: a PEM file of all authorities to trust, public ones too if they are needed."""


class WayOut(Block):
    """The proxy between this cluster and the others' servers, as `proxy` of settings and policy. For
    `HTTPS_PROXY` and `NO_PROXY` use `extraEnv`."""

    url: str = ""
    """`http://HOST:PORT` or `https://HOST:PORT`; empty: none but that of the environment."""
    username: str = ""
    """The name, if the proxy wants one."""
    password: Annotated[str, Field(pattern=r"^(|\$\{[A-Z][A-Z0-9_]*\})$")] = ""
    """The password for that, as `${NAME}` of `secrets`."""
    no_proxy: list[str] = []
    """Servers that are reached straight: names, addresses and networks."""
    upstream: bool = False
    """The upstream is behind the proxy, too."""


class ModelPort(Block):
    """The model port (`settings.llm`). Every model call of the upstream goes through it, whoever asks."""

    own_deployment: bool = False
    """Pods of its own: a deploy or a crash of the public proxies then touches no model call."""
    replicas: Annotated[int, Field(ge=1, le=100)] = 2
    """Of its own Deployment."""
    resources: Object | None = None
    """Of its own Deployment; `null`: as the proxies'."""
    one_is_enough: bool = False
    """Accept a single replica: while it is away, all model calls of the upstream fail."""
    annotations: dict[str, str] = {}
    """Of the Service."""


class ServiceAccount(Block):
    """The pods' account in the cluster."""

    create: bool = True
    name: str = ""
    """Empty: the release's name, or `default` where none is made."""
    annotations: dict[str, str] = {}


class DisruptionBudget(Block):
    """The number of pods that an eviction may take at a time."""

    enabled: bool = True
    max_unavailable: Count = 1
    """With one replica a node can be drained; of more, all but one stay."""
    min_available: Count | None = None
    """Takes precedence over `maxUnavailable`."""


class EnvVar(Block):
    """An environment variable. For a secret that `settings` refer to, `secrets` is shorter."""

    name: Annotated[str, Field(pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")]
    value: str | None = None
    value_from: Object | None = None


class Backend(Block):
    """A Service of the upstream, in the same namespace."""

    service: Name
    port: Port


class Ingress(Block):
    """`networking.k8s.io/v1`. It has no methods and no patterns: every path with a route's prefix goes to
    Headgate."""

    enabled: bool = False
    class_name: str = ""
    host: HostName = "api.example.org"
    tls_secret: str = ""
    """Name of a Secret; empty: no TLS here."""
    annotations: dict[str, str] = {}


class ParentRef(Block):
    """A Gateway that routes are attached to."""

    name: Name
    namespace: Name | None = None
    section_name: Name | None = None


class HttpRoute(Block):
    """`gateway.networking.k8s.io/v1`."""

    enabled: bool = False
    parent_refs: list[ParentRef] = []
    hostnames: list[HostName] = []
    paths: Literal["regex", "prefix"] = "regex"
    """`regex`: the routes' own paths, and for requests that start runs their method. The
    gateway must support patterns; Envoy's, Istio's and NGINX's do. `prefix`: as for the Ingress."""
    annotations: dict[str, str] = {}


class Expose(Block):
    """The ways by which requests enter the cluster."""

    through: Literal["routes", "everything"] = "routes"
    """`routes`: only Headgate's own routes go through it, and the rest goes straight to the upstream.
    `everything`: all requests do, and Headgate relays the rest."""
    upstream: Backend | None = None
    """Needed for `routes`."""
    ingress: Ingress = Ingress()
    http_route: HttpRoute = HttpRoute()


class Storage(Block):
    """Storage of the rollout's journal, without which the controller would start over."""

    size: Annotated[str, Field(pattern=r"^[1-9][0-9]*[MGT]i$")] = "1Gi"
    class_name: str = ""
    """Empty: the cluster's default. It must be a disk of one node: SQLite does not work on NFS."""
    existing_claim: str = ""
    """Use this claim instead of a new one."""


class Controller(Block):
    """The rollout controller: raises the share of users, and rolls back by itself. One runs, with a Lease."""

    enabled: bool = False
    policy: Policy | None = None
    """`rollout.yaml`, but for `journal`, `lease` and `listen`, which the chart sets. A change restarts it."""
    reason: Annotated[str, Field(min_length=1, max_length=500)] = "begun by the chart"
    """The reason of the rollout, for the journal. Later starts continue the rollout under way."""
    storage: Storage = Storage()
    service_account: ServiceAccount = ServiceAccount()
    """Bound to the role for the Lease, also if it is not made here."""
    resources: Object = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}


class ServiceMonitor(Block):
    """`monitoring.coreos.com/v1`, for the Prometheus Operator."""

    enabled: bool = False
    interval: ShortTime = "15s"
    scrape_timeout: ShortTime | None = None
    """At most `interval`. `null`: Prometheus's own."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    relabelings: list[Object] = []
    """Keep the job `headgate`, by which rules and dashboards find Headgate."""
    metric_relabelings: list[Object] = []


class PrometheusRule(Block):
    """Recorded ratios and alerts."""

    enabled: bool = False
    labels: dict[str, str] = {}
    runbooks: Annotated[str, Field(pattern=r"^https?://\S+[^/]$")] = RUNBOOKS
    """The address of `docs/runbooks`, for the links of alerts."""
    selector: str = ""
    """Label matchers of the release's own series. Empty: its namespace and its job."""
    alert_labels: dict[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")], str] = {}
    """Labels of each alert, by which Alertmanager finds who is told: `team`, `cluster`."""


class Dashboards(Block):
    """A ConfigMap that Grafana's sidecar picks up."""

    enabled: bool = False
    labels: dict[str, str] = {"grafana_dashboard": "1"}


class Monitoring(Block):
    """Metrics, alerts and dashboards."""

    service_monitor: ServiceMonitor = ServiceMonitor()
    rules: PrometheusRule = PrometheusRule()
    dashboards: Dashboards = Dashboards()


class Peers(Block):
    """The destinations of one kind of outgoing connection."""

    peers: list[Object] = []
    """NetworkPolicyPeers: `podSelector`, `namespaceSelector`, `ipBlock`."""
    ports: list[Port] = []
    """Ports of the pods, not of their Service."""


DNS = Peers(
    peers=[
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ],
    ports=[53],
)


class Egress(Block):
    """The servers to which Headgate may connect. Set each one that the settings or the policy use; all others
    are closed."""

    dns: Peers = DNS
    upstream: Peers = Peers()
    unleash: Peers = Peers()
    valkey: Peers = Peers()
    prometheus: Peers = Peers()
    """The server of the controller's evidence."""
    models: Peers = Peers()
    """The providers of `settings.llm`."""
    keys: Peers = Peers()
    """The host of `settings.identity.jwt.jwks_url`."""
    webhook: Peers = Peers()
    """The host of `controller.policy.notify`."""
    proxy: Peers = Peers()
    """The corporate proxy, where one is named. `unleash`, `prometheus`, `models`, `keys`, `webhook` and
    `traces` may be left empty then: what they name is reached through it."""
    traces: Peers = Peers()
    """The collector of `settings.traces`."""
    kubernetes: Peers = Peers()
    """The API server, for the controller's Lease: its endpoints and their port. Most networks look at packets
    after they have left the Service's address."""


class NetworkPolicy(Block):
    """The clients that may connect to Headgate, and the servers to which Headgate may connect."""

    enabled: bool = True
    public: list[Object] = []
    """NetworkPolicyPeers that may use the public port; empty: everybody."""
    admin: list[Object] = []
    """Peers that may use the admin ports: Prometheus. Empty: only the kubelet."""
    model: list[Object] = []
    """Peers that may use the model port: the upstream. Empty: none."""
    to: Egress = Egress()


class Valkey(Block):
    """A small store for trying out: one pod, in memory, without a password. Use your own in production."""

    enabled: bool = False
    image: str = "valkey/valkey:8.1-alpine"
    resources: Object = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}


class Values(Block):
    """All values."""

    settings: Settings
    """`headgate.yaml` ([settings](../docs/reference/settings.md)), without the settings that the chart sets:
    `listen`, `admin`, `drain_s`, `flags.file`, `llm.listen`. A change rolls the pods."""
    flag_file: Object | None = None
    """Unleash client-features JSON, for trying out without a server. A change rolls nothing, and is seen as
    soon as the kubelet has it."""
    secrets: dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], SecretKey] = {}
    """Environment variable to a key of a Secret: the value of `${NAME}` in `settings` and `policy`."""
    name_override: str = ""
    fullname_override: str = ""
    image: Image = Image()
    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    """More than one needs `settings.event_log.valkey`, or `valkey.enabled`."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes in a pod. Prefer more replicas."""
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Your longest answer. From it come `drain_s`, and a grace period of 15 seconds more: 5 in which the
    endpoints forget the pod, and 10 to end."""
    resources: Object = {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    autoscaling: Autoscaling = Autoscaling()
    service: Service = Service()
    admin_service: AdminService = AdminService()
    model_port: ModelPort = ModelPort()
    expose: Expose = Expose()
    controller: Controller = Controller()
    monitoring: Monitoring = Monitoring()
    network_policy: NetworkPolicy = NetworkPolicy()
    valkey: Valkey = Valkey()
    common_labels: dict[str, str] = {}
    """On every object and pod."""
    deployment_annotations: dict[str, str] = {}
    pod_annotations: dict[str, str] = {}
    pod_labels: dict[str, str] = {}
    service_account: ServiceAccount = ServiceAccount()
    """Of the proxies; they get no token."""
    pod_security_context: Object = {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    """Of all pods. The names given are changed, and `null` removes one: OpenShift gives `runAsUser`,
    `runAsGroup` and `fsGroup` itself."""
    security_context: Object = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    """Of all of the chart's containers, in the same way."""
    authorities: PrivateAuthorities = PrivateAuthorities()
    proxy: WayOut = WayOut()
    extra_env: list[EnvVar] = []
    """Added to the proxies and the controller."""
    env_from: list[Object] = []
    """Variables of the proxies and the controller. With it, `secrets` need not have every `${NAME}`."""
    extra_volumes: list[Named] = []
    """Added to the proxies and the controller."""
    extra_volume_mounts: list[Named] = []
    """Added to the proxies and the controller."""
    extra_containers: list[Named] = []
    """Beside the proxy, in its pod."""
    init_containers: list[Named] = []
    """Before the proxy, in its pod."""
    lifecycle: Object = {}
    """Of the proxy. A `preStop` takes the place of the chart's, which waits 5 seconds for the endpoints to
    forget the pod."""
    revision_history_limit: Annotated[int, Field(ge=0, le=100)] = 10
    strategy: Object = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    """Of the proxies' Deployments. The names given are changed, and `null` removes one."""
    min_ready_seconds: Annotated[int, Field(ge=0, le=3600)] = 0
    progress_deadline_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    startup_probe: Object = {"periodSeconds": 2, "failureThreshold": 30}
    """Of the proxy: times and counts; what is asked is the chart's. The names given are changed."""
    liveness_probe: Object = {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6}
    readiness_probe: Object = {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 2}
    topology_spread_constraints: list[Object] | None = None
    """Of the proxies. `null`: over zones and nodes, as far as there are any. A constraint without
    `labelSelector` is about the proxies."""
    pod_disruption_budget: DisruptionBudget = DisruptionBudget()
    """Of the proxies."""
    host_aliases: list[Object] = []
    dns_config: Object = {}
    dns_policy: Literal["", "ClusterFirst", "Default", "None"] = ""
    node_selector: dict[str, str] = {}
    tolerations: list[Object] = []
    affinity: Object = {}
    priority_class_name: str = ""
    runtime_class_name: str = ""
    scheduler_name: str = ""
    enable_service_links: bool = False
    """In the proxies' pods."""
    share_process_namespace: bool = False
    host_users: bool | None = None
    """`false`: the pods have a user namespace of their own."""
    extra_objects: list[Object] = []
    """Installed with the release; `{{ … }}` in them is filled in."""
    global_: Annotated[Object, Field(alias="global")] = {}
    """Values of a parent chart; not used."""
    enabled: bool = True
    """For the `condition` of a parent chart, which alone reads it."""
