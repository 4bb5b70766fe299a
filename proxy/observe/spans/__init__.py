"""By what a request is found: the ids of its log lines, and Headgate's own spans. Read `ports.py` first."""
