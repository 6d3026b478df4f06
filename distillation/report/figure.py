"""A file of a report: a plot as SVG or a picture as PNG, with its caption."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from KDSegmentatorLib.errors import ExportError

if TYPE_CHECKING:
    from typing import Any

FORMATS = {"png": "image/png", "svg": "image/svg+xml"}

# Okabe and Ito: distinguishable with every kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure.

    Attributes:
        name: of its file, without suffix.
        caption: what it shows.
        suffix: ``png`` or ``svg``.
        content: of the file.
    """

    name: str
    caption: str
    suffix: Literal["png", "svg"]
    content: bytes

    def html(self) -> str:
        """Return it as HTML that needs no other file."""
        data = base64.b64encode(self.content).decode()
        return (
            f'<figure><img alt="{escape(self.caption)}" src="data:{FORMATS[self.suffix]};base64,{data}">'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>\n"
        )

    def markdown(self, folder: str) -> str:
        """Return it as Markdown that shows the file in a folder beside it."""
        return f"![{self.caption}]({folder}/{self.name}.{self.suffix})\n\n{self.caption}\n"


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of a size in inches, without pyplot's global state.

    Raises:
        ExportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExportError(
            "plots need matplotlib; install it: pip install matplotlib, or the extra 'distill'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, name: str, caption: str, suffix: Literal["png", "svg"] = "svg") -> Picture:
    """Return a matplotlib figure as a file; the same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        metadata = {"Date": None} if suffix == "svg" else {}
        figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata, facecolor=figure.get_facecolor())
    return Picture(name=name, caption=caption, suffix=suffix, content=buffer.getvalue())
