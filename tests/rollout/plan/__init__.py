"""Tests of `flags/rollout/plan/`."""
