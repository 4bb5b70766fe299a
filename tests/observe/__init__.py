"""Tests of `proxy/observe/`."""
