"""Evidence: counters read from Prometheus or from the proxies' pages, as counts by arm and bucket.

Read `readings.py` first: how raw counters become evidence.
"""
