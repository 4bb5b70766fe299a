"""How bytes flow: the gateway, the relay, and runs with their sources and viewers."""
