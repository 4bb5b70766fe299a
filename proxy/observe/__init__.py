"""The operators' view: the admin port, metrics, logs, and when a request is counted.

Imports none of what it observes. Read `metrics.py` first: every metric's name and labels.
`logs.py` keeps content and secrets out of the log.
"""
