"""What a viewer may end with, beside the modules that may be compiled, as errors cannot be."""


class Unanswered(Exception):
    """The run has ended in a way that is nothing to this viewer, and nothing was sent."""
