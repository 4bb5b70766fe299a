"""Tests of `flags/rollout/reporting/`."""
