"""The one family of errors that the world outside our own code can cause.

A mistake of our own is an assert and a crash. The harm under study is a fact and never an exception.
What is left is here, and every message says what to do next.
"""


class LateackError(Exception):
    """Something outside our code is wrong, and the message says what to do about it."""


class MemoryExhausted(LateackError):
    """A domain has run out of frames, of head cells or of grant references."""


class RingBroken(LateackError):
    """A shared ring shows indices that no honest peer could have written."""
