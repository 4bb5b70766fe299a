"""From where a browser's request comes, by what the browser says of it. Pure.

Source: https://www.w3.org/TR/fetch-metadata/
"""

from collections.abc import Collection

from proxy.http.headers import Headers

SITE = b"sec-fetch-site"
PREFIX = b"sec-fetch-"


def comes_from(headers: Headers, sites: Collection[str]) -> bool:
    """Whether a request comes from one of `sites`, or from a client that is no browser.

    A browser says no site over plain HTTP, but there it says the origin of a page of another one.
    """
    if any(name.startswith(PREFIX) for name, _ in headers):
        said = [value.decode("latin-1") for name, value in headers if name == SITE]
        return len(said) == 1 and said[0] in sites
    fields = dict(headers)
    origin = fields.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == fields.get(b"host")
