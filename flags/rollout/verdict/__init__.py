"""Verdicts: sequential tests of the evidence, guardrail by guardrail. Pure.

Imports `evidence` and `policy`. Read `verdict.py` first: what a test says; then `evaluator.py`, which asks
all tests of a rollout. A guardrail's class of test is in its `_TESTS`; the threshold of each is
`rate_evidence.Thresholds`, of the policy's error budget and the guardrail's weight.
"""
