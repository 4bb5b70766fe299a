"""Tests of `proxy/upstream/`."""
