"""The clinic's way to its language model: one client for each provider's shape, whole answers only."""
