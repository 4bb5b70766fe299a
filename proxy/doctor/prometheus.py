"""Prometheus: has it this Headgate's series, are they fresh, has it every route's? Instant queries alone."""

import json
import ssl
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from flags.egress import STRAIGHT, Egress
from proxy.doctor.findings.asking import NoAnswer, ask, client
from proxy.doctor.findings.diagnosis import Diagnosis, fail, ok, warn

CHECK = "prometheus"

FRESH_S = 90.0
"""A scrape a minute, and half of that again."""

PAGES = "count(headgate_build_info)"
AGE = "max(time() - timestamp(headgate_build_info))"
ROUTES = "count by (route) (headgate_requests_total)"
STARTS = "count(process_start_time_seconds and on(instance, job) headgate_build_info)"


async def look(
    url: str, routes: Collection[str], ways: Egress = STRAIGHT, ca_file: Path | None = None
) -> Diagnosis:
    """Ask for the series of this Headgate.

    Args:
        url: as its page has it.
        routes: names that must be labels.
        ways: to it, straight or through a proxy.
        ca_file: see `tls.ca_file`.
    """
    tls = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else None
    found: dict[str, list[Mapping[str, Any]]] = {}
    try:
        async with client(tls, ways.proxy_for(url)) as asking:
            for query in (PAGES, AGE, ROUTES, STARTS):
                reply = await ask(asking, f"{url.rstrip('/')}/api/v1/query?{urlencode({'query': query})}")
                found[query] = json.loads(reply.body)["data"]["result"]
    except NoAnswer as exc:
        return fail(
            CHECK, f"does not answer{ways.through(url)}: {exc}", "Give its address as its own page has it."
        )
    except (ValueError, KeyError, TypeError):
        return fail(CHECK, f"answers {reply.status}, and no result", "Give its address, without /api.")
    return judged(found, routes)


def judged(found: Mapping[str, list[Mapping[str, Any]]], routes: Collection[str]) -> Diagnosis:
    """By the results of the queries."""
    pages, age_s = _number(found[PAGES]), _number(found[AGE])
    if not pages:
        return fail(
            CHECK,
            "has no headgate_build_info: it does not scrape Headgate's admin port",
            "Add a scrape job for /metrics of the admin port, which must be reachable from Prometheus.",
        )
    if age_s > FRESH_S:
        return warn(
            CHECK,
            f"last scraped {age_s:.0f} s ago",
            "Scrape every 15 s, and at least once a minute: a rollout holds on older evidence.",
        )
    missing = sorted(set(routes) - {sample["metric"].get("route") for sample in found[ROUTES]})
    if missing:
        return warn(
            CHECK,
            f"has no series of the routes {', '.join(missing)}",
            "It scrapes another Headgate, or one with other settings: compare the job's targets.",
        )
    if not _number(found[STARTS]):
        return warn(
            CHECK,
            "drops process_start_time_seconds",
            "Let the scrape job keep it: without it a rollout loses the counts of new pods.",
        )
    return ok(CHECK, f"scrapes {pages:.0f} admin ports; the oldest sample is {age_s:.0f} s old")


def _number(result: list[Mapping[str, Any]]) -> float:
    return float(result[0]["value"][1]) if result else 0.0
