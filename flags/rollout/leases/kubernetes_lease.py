"""The lease for controllers of one cluster: a `coordination.k8s.io/v1` Lease, by Kubernetes's REST API.

The API server compares and sets (`resourceVersion`), and `leaseTransitions` is the fence. Clocks of two
machines are never compared: the holder counts from before its last request to renew, the others from when
they last saw the lease change, as client-go's leader election does. So a candidate waits a whole term before
it takes over from a holder that was killed; a holder that ends in order releases the lease, and nobody
waits.

The service account needs `get`, `create` and `update` of `leases` in the namespace. After the Lease is
deleted, numbers begin again with 1.

Sources: https://kubernetes.io/docs/concepts/architecture/leases/
https://kubernetes.io/docs/reference/using-api/api-concepts/#updates-to-existing-resources
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flags.errors import LeaseError, LeaseLost
from flags.rollout.leases.kubernetes_api import ApiServer
from flags.rollout.leases.lease import TTL_S, Fence, unique_holder

RENEW_ATTEMPTS = 2
"""The second is for a lease that somebody annotated, or a renewal whose answer was lost."""

_ABSENT, _CONFLICT = 404, 409


def since_boot_s() -> float:
    """Seconds since boot: they go on while the machine sleeps, and nobody can set them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One version of the lease, and when it was first seen here."""

    version: str
    at_s: float


@dataclass(frozen=True, slots=True)
class _Held:
    fence: Fence
    until_s: float


class ClusterLease:
    """One Lease object. A Lease. The caller owns the API server.

    Args:
        ttl_s: whole seconds, the same for all controllers.
        clock: seconds of this machine alone, from any beginning.
    """

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        name: str,
        *,
        ttl_s: int = int(TTL_S),
        holder: str | None = None,
        clock: Callable[[], float] = since_boot_s,
    ) -> None:
        self._api = api
        self._namespace, self._name = namespace, name
        self._what = f"lease {namespace}/{name}"
        self._ttl_s = ttl_s
        self._holder = holder or unique_holder()
        self._clock = clock
        self._seen: _Seen | None = None
        self._held: _Held | None = None

    def __repr__(self) -> str:
        return f"<KubernetesLease {self._namespace}/{self._name} {self._holder}>"

    async def acquire(self) -> Fence | None:
        self._held = None
        lease = await self._get()
        if lease is None:
            return await self._take(self._create, {}, 1)
        if not self._may_take(lease):
            return None
        return await self._take(self._update, lease, _fence_of(lease).number + 1)

    async def renew(self, fence: Fence) -> None:
        for _ in range(RENEW_ATTEMPTS):
            began_s = self._clock()
            lease = await self._mine(fence, 0.0)
            if await self._update(_renewed(lease, self._ttl_s)) is not None:
                self._hold(fence, began_s)
                return
        raise LeaseLost(f"{self._what}: others keep changing it")

    async def release(self, fence: Fence) -> None:
        lease = await self._get()
        if lease is not None and _fence_of(lease) == fence:
            await self._update(_with(lease, holderIdentity=""))

    async def check(self, fence: Fence, *, for_s: float = 0.0) -> None:
        await self._mine(fence, for_s)

    def _may_take(self, lease: Mapping[str, Any]) -> bool:
        """True if the lease has no holder, or its holder has not renewed it for a whole term."""
        holder = lease["spec"].get("holderIdentity")
        version, now_s = lease["metadata"]["resourceVersion"], self._clock()
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(version, now_s)
        theirs_s = max(self._ttl_s, float(lease["spec"].get("leaseDurationSeconds") or 0))
        # Our own name: an earlier request got the lease, and its answer was lost.
        return holder in (None, "", self._holder) or now_s - self._seen.at_s > theirs_s

    async def _take(
        self,
        write: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any] | None]],
        lease: Mapping[str, Any],
        number: int,
    ) -> Fence | None:
        began_s = self._clock()
        spec = {"holderIdentity": self._holder, "leaseTransitions": number, "acquireTime": _micro_time()}
        if await write(_renewed(_with(lease, **spec), self._ttl_s)) is None:
            return None
        fence = Fence(number, self._holder)
        self._hold(fence, began_s)
        return fence

    def _hold(self, fence: Fence, began_s: float) -> None:
        self._held = _Held(fence, began_s + self._ttl_s)

    async def _mine(self, fence: Fence, for_s: float) -> Mapping[str, Any]:
        """The lease as it is now. Raises LeaseLost if it is not `fence`'s."""
        lease = await self._get()
        held = self._held
        if lease is None or _fence_of(lease) != fence or held is None or held.fence != fence:
            who = "nobody" if lease is None else lease["spec"].get("holderIdentity") or "nobody"
            raise LeaseLost(f"{self._what}: {who} has it")
        if held.until_s - self._clock() <= for_s:  # looked at last: the answer may have taken long
            raise LeaseLost(f"{self._what}: it has run out, or has less than {for_s:g} s left")
        return lease

    async def _get(self) -> dict[str, Any] | None:
        return await self._ask("GET", f"/{self._name}", None, frozenset({_ABSENT}))

    async def _update(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        """The lease as stored; None if another controller was first."""
        return await self._ask("PUT", f"/{self._name}", lease, frozenset({_ABSENT, _CONFLICT}))

    async def _create(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        """The lease as stored; None if another controller was first. Raises LeaseError without the
        namespace."""
        meta = {"metadata": {"name": self._name, "namespace": self._namespace}}
        its = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **meta, **lease}
        return await self._ask("POST", "", its, frozenset({_CONFLICT}))

    async def _ask(
        self, method: str, name: str, body: Mapping[str, Any] | None, expects: frozenset[int]
    ) -> dict[str, Any] | None:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases{name}"
        status, lease = await self._api.ask(method, path, body, expects=expects)
        if status in expects:
            return None
        try:
            _fence_of(lease), lease["metadata"]["resourceVersion"]
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise LeaseError(f"{self._what}: {method} answers {status}, but not with a Lease") from exc
        return lease


def _with(lease: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    return {**lease, "spec": {**lease.get("spec", {}), **spec}}


def _renewed(lease: Mapping[str, Any], ttl_s: int) -> dict[str, Any]:
    return _with(lease, renewTime=_micro_time(), leaseDurationSeconds=ttl_s)


def _fence_of(lease: Mapping[str, Any]) -> Fence:
    spec = lease["spec"]
    return Fence(int(spec.get("leaseTransitions") or 0), str(spec.get("holderIdentity")))


def _micro_time() -> str:
    # For people: no decision depends on it.
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
