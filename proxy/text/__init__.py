"""Text as events: what may be said in which order, its bytes on the wire, its log. Only the log and
the reader of slow JSON wait.

Imports nothing of Headgate's but how long one task may work at a time. Read `events.py` first: the
grammar of a stream.
"""
