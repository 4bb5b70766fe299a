"""One request of a route, for which somebody has asked: its model calls, their trace context, and its stream.

Read `real_request.py` first.
"""
