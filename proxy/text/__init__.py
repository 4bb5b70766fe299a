"""Text as events: what may be said in which order, its bytes on the wire, its log. Only the log waits.

Imports nothing of Headgate's. Read `events.py` first: the grammar of a stream.
"""
