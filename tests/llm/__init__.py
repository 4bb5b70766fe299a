"""Tests of `proxy/llm/`."""
