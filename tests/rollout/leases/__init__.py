"""Tests of `flags/rollout/leases/`."""
