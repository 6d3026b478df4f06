"""The way through the Packs box: what is installed, its cards, install, verify, roll back, remove."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.regions import dependents, region_problem
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.pack_card import card
from KDSegmentatorPanel.segment_view import Message
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import for_people


@dataclass(frozen=True, kw_only=True)
class PackRow:
    """A pack in the list.

    Attributes:
        id: of the pack.
        text: for the list.
        damaged: whether it cannot be used.
    """

    id: str
    text: str
    damaged: bool


@dataclass(frozen=True, kw_only=True)
class PacksView:
    """All of the Packs box.

    Attributes:
        rows: the packs, families together, from the teacher down; damaged ones last.
        chosen: id of the one whose card is shown; empty if there is none.
        card: HTML.
        remove_reason: why the chosen one cannot be removed; empty if it can.
        roll_back_reason: why the version before it cannot be brought back; empty if it can.
        message: what became of the last action.
    """

    rows: tuple[PackRow, ...]
    chosen: str
    card: str
    remove_reason: str
    roll_back_reason: str
    message: Message


class PacksPanel:
    """The state of the Packs box.

    Args:
        store: the packs of this machine.
    """

    def __init__(self, store: PackStore) -> None:
        self._store = store
        self._chosen = ""
        self._message = Message()

    def choose(self, pack_id: str) -> None:
        """Show the card of a pack."""
        if pack_id != self._chosen:
            self._chosen, self._message = pack_id, Message()

    def install(self, path: Path) -> None:
        """Install a pack from a ``.kdpack`` file or a folder, completely verified."""
        try:
            pack = self._store.install(path)
        except KDSegmentatorError as error:
            self._fail(error)
            return
        self._chosen = pack.manifest.id
        self._say(
            _("Installed {id} {version}. All hashes are right.").format(id=self._chosen, version=pack.manifest.version),
            pack,
        )

    def verify(self) -> None:
        """Check all files of the chosen pack."""
        try:
            pack = self._store.verify(self._chosen)
        except KDSegmentatorError as error:
            self._fail(error)
            return
        self._say(
            _("{id} {version}: all hashes are right.").format(id=self._chosen, version=pack.manifest.version), pack
        )

    def remove(self) -> None:
        """Remove the chosen pack; one that came with the extension shows again."""
        pack_id = self._chosen
        try:
            self._store.remove(pack_id)
        except KDSegmentatorError as error:
            self._fail(error)
            return
        self._say(_("Removed {id}.").format(id=pack_id))

    def roll_back(self) -> None:
        """Bring back the version before the last installation of the chosen pack."""
        try:
            pack = self._store.roll_back(self._chosen)
        except KDSegmentatorError as error:
            self._fail(error)
            return
        self._say(_("{id} is {version} again.").format(id=self._chosen, version=pack.manifest.version), pack)

    def view(self) -> PacksView:
        """Return what the box shows."""
        packs = {pack.manifest.id: pack for family in families(self._store.packs()) for pack in family.packs}
        damaged = {pack.id: pack for pack in self._store.damaged()}
        rows = [
            PackRow(id=each, text=f"{pack.manifest.title}, {pack.manifest.size} ({self._source(each)})", damaged=False)
            for each, pack in packs.items()
        ]
        rows += [PackRow(id=each, text=_("{id} (damaged)").format(id=each), damaged=True) for each in damaged]
        known = [row.id for row in rows]
        chosen = self._chosen if self._chosen in known else next(iter(known), "")
        self._chosen = chosen
        if chosen in packs:
            page = card(packs[chosen])
        elif chosen in damaged:
            page = f"<p>{escape(for_people(damaged[chosen].error))}</p>"
        else:
            page = ""
        shipped = damaged[chosen].shipped if chosen in damaged else self._store.is_shipped(chosen)
        previous = self._store.previous(chosen) if chosen else None
        return PacksView(
            rows=tuple(rows),
            chosen=chosen,
            card=page,
            remove_reason="" if chosen and not shipped else _("Packs that came with the extension cannot be removed."),
            roll_back_reason="" if previous is not None else _("There is no version before this one."),
            message=self._message,
        )

    def _source(self, pack_id: str) -> str:
        return _("shipped") if self._store.is_shipped(pack_id) else _("installed")

    def _say(self, text: str, pack: StudentPack | None = None) -> None:
        """Show what was done, and what is in the way of running this pack and those that are run after the chosen."""
        touched = [*([] if pack is None else [pack]), *dependents(self._chosen, self._store.packs())]
        problems = [problem for each in touched if (problem := region_problem(each, self._store.find)) is not None]
        message = " ".join([text, *(f"{problem[:1].upper()}{problem[1:]}." for problem in problems)])
        self._message = Message(text=message, level="warning" if problems else "information")

    def _fail(self, error: KDSegmentatorError) -> None:
        self._message = Message(text=for_people(error), level="error")
