"""A language model for demonstrations: made-up text at a set speed, in each provider's shape."""
