"""How a pair of segmentations is shown; stored in the scene by name: a renamed member breaks saved scenes."""

from __future__ import annotations

from enum import Enum

from KDSegmentatorPanel.translation import tr as _


class PairView(Enum):
    """How a pair of segmentations is shown."""

    OVERLAY = "overlay"
    SIDE_BY_SIDE = "side by side"
    CHECKERBOARD = "checkerboard"
    DISAGREEMENT = "disagreement"

    def label(self) -> str:
        """Return the text for the user (called by ``parameterNodeWrapper``)."""
        return {
            PairView.OVERLAY: _("overlay (A filled, B outlined)"),
            PairView.SIDE_BY_SIDE: _("side by side (A left, B right)"),
            PairView.CHECKERBOARD: _("checkerboard (A and B by turns)"),
            PairView.DISAGREEMENT: _("disagreement"),
        }[self]
