"""Tests of `proxy/workers/`."""
