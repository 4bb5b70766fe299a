"""Pages that get the script `attach.js` on their way through the relay: which requests are for one."""

import re
from functools import partial

from proxy.downstream.client_request import ClientRequest
from proxy.http.headers import Headers
from proxy.identity import Identifier
from proxy.observe.metrics import Metrics
from proxy.relay.attached_page import AttachedPage, asked_for_page
from proxy.relay.relay import Relay
from proxy.relay.result import OnEnd, RelayResult
from proxy.routed.attach_document import AttachDocument
from proxy.settings.blocks.attach import AttachSettings
from proxy.settings.routes import PathTemplate

_DESTINATIONS = frozenset({b"document", b"iframe", b"frame"})
"""Of a request for a page that is shown (Fetch 2.2.5), as far as a client says."""


class AttachedPages:
    """A relay for the pages of the settings."""

    def __init__(
        self,
        settings: AttachSettings,
        document: AttachDocument,
        identifier: Identifier,
        relay: Relay,
        metrics: Metrics,
    ) -> None:
        self._any = re.compile("|".join(PathTemplate(page).nameless() for page in settings.pages))
        self._document = document
        self._identifier = identifier
        self._relay = relay
        self._metrics = metrics

    def takes(self, method: str, headers: Headers, target: bytes) -> bool:
        """True if a request is for a page that is to have the script, if it may."""
        if method != "GET" or not self._any.fullmatch(target.partition(b"?")[0].decode("latin-1")):
            return False
        is_shown = all(
            value in _DESTINATIONS if name == b"sec-fetch-dest" else name != b"range"
            for name, value in headers
        )
        # Who is nobody yet may be somebody to the script, which asks with the page's own credential.
        return is_shown and self._document.shows(self._identifier.identify(headers))

    def begin(self, request: ClientRequest, on_end: OnEnd, entered_at: float) -> None:
        """Relay a request that `takes` says yes to."""
        page = AttachedPage(request)
        request.headers = asked_for_page(request.headers)
        self._relay.begin(request, partial(self._count, page, on_end), entered_at, page)

    def _count(self, page: AttachedPage, on_end: OnEnd, result: RelayResult) -> None:
        if page.result is not None:
            self._metrics.attached_pages.labels(page.result).inc()
        on_end(result)
