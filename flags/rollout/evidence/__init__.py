"""Evidence: counters read from Prometheus or from the proxies' pages, as counts by arm and bucket.

Read `readings.py` first, then `growth.py`: how raw counters become evidence.
"""
