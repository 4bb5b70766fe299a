"""Tests of `flags/rollout/`."""
