"""The choices at the top of a dashboard, and the selectors that they make."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label."""

    name: str
    label: str
    metric: str
    of: str
    many: bool = True


IN_NAMESPACE = 'cluster=~"$cluster",namespace=~"$namespace"'
OF_JOB = f'{IN_NAMESPACE},job=~"$job"'
CLUSTER = Variable("cluster", "Cluster", "headgate_build_info", "cluster")
NAMESPACE = Variable("namespace", "Namespace", 'headgate_build_info{cluster=~"$cluster"}', "namespace")
JOB = Variable("job", "Job", f"headgate_build_info{{{IN_NAMESPACE}}}", "job")
POD = Variable("pod", "Pod", f"headgate_build_info{{{OF_JOB}}}", "instance")
ROUTE = Variable("route", "Route", f"headgate_requests_total{{{OF_JOB}}}", "route")
CONTROLLER = Variable(
    "controller", "Controller", f"headgate_rollout_phase{{{IN_NAMESPACE}}}", "job", many=False
)
PODS = f'{OF_JOB},instance=~"$pod"'
ROUTES = f'{PODS},route=~"$route"'
