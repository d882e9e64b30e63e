"""The version of mcir, told in one place: to the package, and in all that is written."""

__version__ = "0.1.0"
