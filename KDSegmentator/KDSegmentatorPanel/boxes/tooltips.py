"""Disabled controls say why in their tooltip."""

from __future__ import annotations

from typing import Any


class Enabling:
    """Enables and disables widgets, and swaps their tooltips with it.

    Args:
        widgets: with the tooltips that they have when they are enabled.
    """

    def __init__(self, *widgets: Any) -> None:
        self._widgets = [(widget, widget.toolTip) for widget in widgets]

    def set(self, enabled: bool, reason: str) -> None:
        """Enable the widgets, or disable them with a reason."""
        for widget, tooltip in self._widgets:
            widget.setEnabled(enabled)
            widget.setToolTip(tooltip if enabled else reason)
