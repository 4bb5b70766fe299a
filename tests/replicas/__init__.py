"""Tests of `proxy/replicas/`."""
