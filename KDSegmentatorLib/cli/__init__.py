"""The ``kdseg`` command."""
