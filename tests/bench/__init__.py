"""The speed of Headgate, beside nginx and beside the proxy that everyone writes. `python -m tests.bench`."""
