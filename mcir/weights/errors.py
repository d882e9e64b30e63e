"""Errors of weight files."""


class WeightsError(ValueError):
    """A weight file cannot be read, or weights do not match a network."""


class UnreadableError(ValueError):
    """The content of a file is damaged or cannot be used. The message is the end of a sentence."""
