"""What events and their bytes are refused for: beside the modules that may be compiled, as errors cannot be.

* IllegalEvent     the order of events has no place for it
* EventTooLarge    its end is too far
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.text.sse import ServerSentEvent


class IllegalEvent(ValueError):
    """The event is not allowed now, or never; the transcript has not changed."""


class EventTooLarge(ValueError):
    """More bytes of one event than the decoder may hold. `events` were complete before it, and are good."""

    def __init__(self, max_event_bytes: int, events: "list[ServerSentEvent]") -> None:
        super().__init__(f"an event of more than {max_event_bytes} bytes")
        self.events = events
