"""Tests of `proxy/http/`."""
