"""The tasks as cards in Qt: a picture of what each finds, its title, its facts, and why it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import qt

from KDSegmentatorPanel.boxes.widgets import alarm_color
from KDSegmentatorPanel.segment_view import TaskCard
from KDSegmentatorPanel.translation import tr as _

SHOWN_CARDS = 6
"""With more tasks than this there is a search field, and the others wait for it."""

_PICTURE_PIXELS, _SMALL_PICTURE_PIXELS = 56, 32
_INDENT = 22
"""Of the text below a radio button, so that it starts where the button's text does."""

_STYLE = (
    "QFrame#taskCard {{ border: {width}px solid palette({color}); border-radius: 4px; }}"
    " QFrame#taskCard QToolButton {{ border: none; }}"
)


class TaskCards:
    """The cards of the Segment box.

    Args:
        ui: the panel's widgets by name.
        choose: called with the task that the user chose.
    """

    def __init__(self, ui: Any, choose: Callable[[str], None]) -> None:
        self._ui = ui
        self._choose = choose
        self._cards: tuple[TaskCard, ...] = ()
        self._chosen = ""
        self._shown: tuple[TaskCard, ...] = ()
        self._frames: list[Any] = []
        self._buttons: list[Any] = []
        self._group = qt.QButtonGroup()
        ui.taskSearchEdit.textChanged.connect(self._onSearch)

    def show(self, cards: tuple[TaskCard, ...], chosen: str) -> None:
        """Show these cards."""
        self._cards, self._chosen = cards, chosen
        self._ui.taskSearchEdit.setVisible(len(cards) > SHOWN_CARDS)
        wanted = self._ui.taskSearchEdit.text.casefold()
        found = [card for card in cards if card.task == chosen or wanted in f"{card.title} {card.facts}".casefold()]
        shown = found[:SHOWN_CARDS]
        if not any(card.task == chosen for card in shown):
            shown = [*shown[: SHOWN_CARDS - 1], *(card for card in found if card.task == chosen)]
        if tuple(shown) != self._shown:  # else a click would take the keyboard's focus away from the button
            self._shown = tuple(shown)
            self._build()
        more = len(found) - len(shown)
        self._ui.moreTasksLabel.setText(_("{count} more: search for them above.").format(count=more))
        self._ui.moreTasksLabel.setVisible(more > 0)
        for frame, button, card in zip(self._frames, self._buttons, self._shown, strict=True):
            own = card.task == chosen
            frame.setStyleSheet(_STYLE.format(width=2 if own else 1, color="highlight" if own else "mid"))
            button.setEnabled(own or not card.problem)  # the chosen one may not fit: a scene has brought it
            button.setChecked(own)

    def _build(self) -> None:
        layout = self._ui.tasksWidget.layout()
        for button in self._buttons:
            self._group.removeButton(button)
        for frame in self._frames:
            layout.removeWidget(frame)
            frame.hide()
            frame.deleteLater()
        self._frames, self._buttons = [], []
        for card in self._shown:
            layout.addWidget(self._frame(card))

    def _frame(self, card: TaskCard) -> Any:
        frame = qt.QFrame()
        frame.setObjectName("taskCard")
        frame.setToolTip(card.details)
        grid = qt.QGridLayout(frame)
        grid.setContentsMargins(6, 4, 6, 4)
        grid.setVerticalSpacing(0)
        grid.setColumnStretch(1, 1)
        grid.setRowStretch(2, 1)
        button = qt.QRadioButton(card.title)
        button.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)  # a long title must not widen the panel
        button.setAccessibleName(f"{card.title}, {card.facts}. {card.problem}")
        button.clicked.connect(partial(self._onClicked, card.task))
        grid.addWidget(button, 0, 1)
        text = qt.QLabel(_("Does not fit: {reason}").format(reason=card.problem) if card.problem else card.facts)
        text.setWordWrap(True)
        text.setIndent(_INDENT)
        grid.addWidget(text, 1, 1)
        if not card.problem:
            button.setStyleSheet("font-weight: bold")
        elif card.task == self._chosen:
            text.setStyleSheet(f"color: {alarm_color(text)}")
        if card.picture is not None:
            pixels = _SMALL_PICTURE_PIXELS if card.problem else _PICTURE_PIXELS
            picture = qt.QToolButton()
            picture.setIcon(qt.QIcon(str(card.picture)))
            picture.setIconSize(qt.QSize(pixels, pixels))
            picture.setFixedWidth(_PICTURE_PIXELS + 6)  # titles below one another
            picture.setAutoRaise(True)
            picture.setFocusPolicy(qt.Qt.NoFocus)
            picture.setAccessibleName(_("Picture of {title}").format(title=card.title))
            picture.setEnabled(not card.problem)
            picture.clicked.connect(partial(self._onClicked, card.task))
            grid.addWidget(picture, 0, 0, 3, 1)
        self._group.addButton(button)
        self._frames.append(frame)
        self._buttons.append(button)
        return frame

    def _onClicked(self, task: str, _checked: bool = True) -> None:
        self._choose(task)

    def _onSearch(self) -> None:
        self.show(self._cards, self._chosen)
