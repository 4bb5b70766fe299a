"""Tests of `proxy/settings/`."""
