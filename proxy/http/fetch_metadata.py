"""The site that a browser's request comes from, by the browser's own headers. Pure.

Source: https://www.w3.org/TR/fetch-metadata/
"""

from collections.abc import Collection

from proxy.http.headers import Headers

SITE = b"sec-fetch-site"
PREFIX = b"sec-fetch-"


def comes_from(headers: Headers, sites: Collection[str]) -> bool:
    """True if a request comes from one of `sites`, or from a client that is no browser.

    Over plain HTTP a browser sends no `Sec-Fetch-Site`, but it sends the `Origin` of another site's page.
    """
    if any(name.startswith(PREFIX) for name, _ in headers):
        values = [value.decode("latin-1") for name, value in headers if name == SITE]
        return len(values) == 1 and values[0] in sites
    fields = dict(headers)
    origin = fields.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == fields.get(b"host")
