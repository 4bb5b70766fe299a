"""Whole rollouts in simulated time: the real controller, policy, verdicts and journal; made traffic."""
