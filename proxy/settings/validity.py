"""Warnings about certificates of our own that others refuse by now, or soon will."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from proxy.settings.settings import Settings

SOON = timedelta(days=14)
"""A certificate that ends before is worth a word: renewals begin a month before."""


def certificate_doubts(settings: Settings, now: datetime) -> Iterator[str]:
    """One sentence for each certificate that is not good at `now`, or not for long, with its setting."""
    for name, path in _certificates(settings).items():
        shown = x509.load_pem_x509_certificates(path.read_bytes())[0]
        begins, ends = shown.not_valid_before_utc, shown.not_valid_after_utc
        if now < begins:
            yield f"{name}: is not valid before {_day(begins)}: until then whoever is shown it refuses it"
        elif now > ends:
            yield f"{name}: ended on {_day(ends)}: whoever is shown it refuses it"
        elif now > ends - SOON:
            yield f"{name}: ends on {_day(ends)}: put a new one into its place before"


def _certificates(settings: Settings) -> Mapping[str, Path]:
    found = {
        "tls.cert": settings.tls.cert,
        "upstream.tls.cert": settings.upstream.tls.cert,
    }
    if settings.llm is not None:
        found["llm.tls.cert"] = settings.llm.tls.cert if settings.llm.tls else None
        for index, provider in enumerate(settings.llm.providers):
            found[f"llm.providers[{index}].tls.cert"] = provider.tls.cert
    return {name: path for name, path in found.items() if path is not None}


def _day(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()
