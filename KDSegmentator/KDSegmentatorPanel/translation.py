"""Texts in the user's language: ``from KDSegmentatorPanel.translation import tr as _``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:

    def tr(text: str) -> str:
        """Return the text in the language of the application."""
        ...

else:
    try:
        # Slicer's own function, not a wrapper: it takes the context of a text from the file of its caller
        from slicer.i18n import tr
    except ImportError:  # outside of the application

        def tr(text: str) -> str:
            """Return the text as it is."""
            return text
