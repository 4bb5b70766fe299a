"""What the chart takes: its values as models. `chart` writes their schema and their page."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dashboards.rules import RUNBOOKS
from flags.rollout.policy.policy import Policy
from proxy.settings.settings import Settings

Object = dict[str, Any]
"""As Kubernetes has it, passed through."""
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
HostName = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class Block(BaseModel):
    """A block of values: closed to names it does not know, and in camelCase as charts have it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, alias_generator=to_camel
    )


class Image(Block):
    """Where Headgate's image is."""

    repository: Annotated[str, Field(min_length=1)] = "headgate"
    """With its registry."""
    tag: str = ""
    """Empty: the chart's `appVersion`."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """`sha256:…`; it counts more than the tag."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pull_secrets: list[Name] = []
    """Names of Secrets."""


class SecretKey(Block):
    """One key of a Secret that is there already."""

    name: Name
    """Of the Secret."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]
    """In it."""


class Autoscaling(Block):
    """By CPU: quick up, and slow down, since each scale-down cuts streams."""

    enabled: bool = False
    min: Annotated[int, Field(ge=1, le=100)] = 2
    max: Annotated[int, Field(ge=1, le=100)] = 6
    cpu: Annotated[int, Field(ge=10, le=100)] = 70
    """Percent of what is requested."""
    scale_down_after_s: Annotated[int, Field(ge=0, le=3600)] = 900
    """So long the load must be lower. Then one replica goes at a time, after the one before has drained."""


class Service(Block):
    """The public one."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    port: Port = 80
    annotations: dict[str, str] = {}


class Backend(Block):
    """A Service of the upstream, in the same namespace."""

    service: Name
    port: Port


class Ingress(Block):
    """`networking.k8s.io/v1`. It knows no methods and no patterns: what begins as a route does goes to
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
    """`regex`: the routes' own paths, and for requests that start runs their method. Patterns are for the
    gateway to support; Envoy's, Istio's and NGINX's do. `prefix`: as for the Ingress."""
    annotations: dict[str, str] = {}


class Expose(Block):
    """How requests come in from outside the cluster."""

    through: Literal["routes", "everything"] = "routes"
    """What goes through Headgate: its own routes alone, and the rest straight to the upstream; or everything,
    of which the rest is relayed."""
    upstream: Backend | None = None
    """Needed for `routes`."""
    ingress: Ingress = Ingress()
    http_route: HttpRoute = HttpRoute()


class Storage(Block):
    """Of the rollout's journal, without which the controller begins anew."""

    size: Annotated[str, Field(pattern=r"^[1-9][0-9]*[MGT]i$")] = "1Gi"
    class_name: str = ""
    """Empty: the cluster's default. It must be a disk of one node: SQLite and NFS do not go together."""
    existing_claim: str = ""
    """Use this claim, and make none."""


class Controller(Block):
    """Raises the share of users, and goes back by itself. One, with a Lease; a second one waits."""

    enabled: bool = False
    policy: Policy | None = None
    """`rollout.yaml`, but for `journal`, `lease` and `listen`, which the chart sets. A change restarts it."""
    reason: Annotated[str, Field(min_length=1, max_length=500)] = "begun by the chart"
    """Why the rollout is begun; it is journaled. Later starts go on with the rollout under way."""
    storage: Storage = Storage()
    resources: Object = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}


class ServiceMonitor(Block):
    """`monitoring.coreos.com/v1`, for the Prometheus Operator."""

    enabled: bool = False
    interval: Annotated[str, Field(pattern=r"^[1-9][0-9]*s$")] = "15s"
    labels: dict[str, str] = {}


class PrometheusRule(Block):
    """Recorded ratios and alerts."""

    enabled: bool = False
    labels: dict[str, str] = {}
    runbooks: Annotated[str, Field(pattern=r"^https?://\S+[^/]$")] = RUNBOOKS
    """Where `docs/runbooks` is served; alerts lead there."""


class Dashboards(Block):
    """A ConfigMap that Grafana's sidecar picks up."""

    enabled: bool = False
    labels: dict[str, str] = {"grafana_dashboard": "1"}


class Monitoring(Block):
    """What watches it."""

    service_monitor: ServiceMonitor = ServiceMonitor()
    rules: PrometheusRule = PrometheusRule()
    dashboards: Dashboards = Dashboards()


class Peers(Block):
    """Who is at the other end; each way out has these."""

    peers: list[Object] = []
    """NetworkPolicyPeers: `podSelector`, `namespaceSelector`, `ipBlock`."""
    ports: list[Port] = []
    """Of the pods, not of their Service."""


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
    """Where Headgate may go. Each that the settings or the policy use is needed; no other way is open."""

    dns: Peers = DNS
    upstream: Peers = Peers()
    unleash: Peers = Peers()
    valkey: Peers = Peers()
    prometheus: Peers = Peers()
    """The controller's evidence."""
    models: Peers = Peers()
    """The providers of `settings.llm`."""
    keys: Peers = Peers()
    """Of `settings.identity.jwt.jwks_url`."""
    webhook: Peers = Peers()
    """Of `controller.policy.notify`."""
    kubernetes: Peers = Peers()
    """The API server, for the controller's Lease."""


class NetworkPolicy(Block):
    """Who may come in, and where Headgate may go."""

    enabled: bool = True
    public: list[Object] = []
    """NetworkPolicyPeers that may use the public port; empty: everybody."""
    admin: list[Object] = []
    """Who may use the admin ports: Prometheus. Empty: nobody but the kubelet."""
    model: list[Object] = []
    """Who may use the model port: the upstream. Empty: nobody."""
    to: Egress = Egress()


class Valkey(Block):
    """A small one, for trying out: one pod, in memory, without a password. For production bring your own."""

    enabled: bool = False
    image: str = "valkey/valkey:8.1-alpine"
    resources: Object = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}


class Values(Block):
    """All values."""

    settings: Settings
    """`headgate.yaml` ([settings](../docs/reference/settings.md)), but for what the chart sets: `listen`,
    `admin`, `drain_s`, `flags.file`, `llm.listen`. A change rolls the pods."""
    flag_file: Object | None = None
    """Unleash client-features JSON, for trying out without a server. A change rolls nothing, and is seen as
    soon as the kubelet has it."""
    secrets: dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], SecretKey] = {}
    """Environment variable to a key of a Secret: what `${NAME}` in `settings` and `policy` stands for."""
    name_override: str = ""
    fullname_override: str = ""
    image: Image = Image()
    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    """More than one needs `settings.event_log.valkey`, or `valkey.enabled`."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes in a pod. More replicas are better."""
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Your longest answer. From it come `drain_s`, and a grace period of 15 seconds more: 5 in which the
    endpoints forget the pod, and 10 to end."""
    resources: Object = {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    autoscaling: Autoscaling = Autoscaling()
    service: Service = Service()
    expose: Expose = Expose()
    controller: Controller = Controller()
    monitoring: Monitoring = Monitoring()
    network_policy: NetworkPolicy = NetworkPolicy()
    valkey: Valkey = Valkey()
    pod_annotations: dict[str, str] = {}
    pod_labels: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: list[Object] = []
    affinity: Object = {}
    priority_class_name: str = ""
    global_: Annotated[Object, Field(alias="global")] = {}
    """Of a chart around this one; not used."""
