"""Tests of `proxy/timers/`."""
