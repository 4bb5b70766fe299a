"""What is wrong with an event of a stream, beside the modules that may be compiled, as errors cannot be."""


class MalformedEvent(ValueError):
    """An event that a rule cannot read. The message has nothing of it."""


class AmbiguousTexts(MalformedEvent):
    """An event with two texts of one stage."""
