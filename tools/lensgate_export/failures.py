"""What ends a command, in words its caller can act on."""

from __future__ import annotations


class Failure(Exception):
    """The work cannot be done, or its result is not good enough: exit code 1."""


class Misuse(Exception):
    """The command was not worded right: exit code 2."""
