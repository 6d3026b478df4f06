"""The library's version; the same as the distribution's in pyproject.toml (a test compares them)."""

__version__ = "0.1.0"
