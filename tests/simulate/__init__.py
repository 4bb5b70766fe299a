"""Whole rollouts in simulated time: the real controller, policy, verdicts and journal; made traffic."""

import os

# There is a process for each core already: a second thread of linear algebra waits for the first one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
