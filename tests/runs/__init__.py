"""Tests of `proxy/runs/`."""
