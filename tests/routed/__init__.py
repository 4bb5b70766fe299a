"""Tests of `proxy/routed/` and `proxy/gateway.py`: one request's whole path, over real sockets."""
