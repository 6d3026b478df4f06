"""Observing one VTK object at a time, and letting go of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Observation:
    """Calls a function when something happens to an object.

    Args:
        call: with the object and the event.
    """

    def __init__(self, call: Callable[[Any, Any], None]) -> None:
        self._call = call
        self._subject: Any = None
        self._tags: list[int] = []

    @property
    def subject(self) -> Any:
        """The object that is observed; None if none is."""
        return self._subject

    def begin(self, subject: Any, *events: Any) -> None:
        """Observe these events of an object, instead of the one before."""
        self.end()
        self._subject = subject
        self._tags = [subject.AddObserver(event, self._call) for event in events]

    def end(self) -> None:
        """Observe nothing any more, and keep nothing of the object."""
        for tag in self._tags:
            self._subject.RemoveObserver(tag)
        self._subject, self._tags = None, []
