"""Viewers: the events of a run on their way to one client, and the API under `/_headgate/`.

Imports `runs` and `text`. Read `viewer.py` first: from the log of a run to a socket. `api.py`
has the paths.
"""
