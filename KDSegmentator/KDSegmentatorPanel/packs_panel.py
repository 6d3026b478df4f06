"""The way through the Packs box: what is installed, its cards, install, verify, roll back, remove."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.regions import dependents, region_problem
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.pack_card import card
from KDSegmentatorPanel.ports import Background, Pending
from KDSegmentatorPanel.segment_view import Message
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import for_people, in_words


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
        busy_reason: why nothing can be done with packs now; empty if it can.
        remove_reason: why the chosen one cannot be removed; empty if it can.
        roll_back_reason: why the version before it cannot be brought back; empty if it can.
        message: what became of the last action.
    """

    rows: tuple[PackRow, ...]
    chosen: str
    card: str
    busy_reason: str
    remove_reason: str
    roll_back_reason: str
    message: Message


class PacksPanel:
    """The state of the Packs box.

    What reads or writes whole packs is done in the background; :meth:`poll` takes over its end.

    Args:
        store: the packs of this machine.
        background: where packs are installed, verified and removed.
    """

    def __init__(self, store: PackStore, background: Background) -> None:
        self._store = store
        self._background = background
        self._work: tuple[Pending[StudentPack | None], Callable[[StudentPack | None], str]] | None = None
        self._task = ""
        self._chosen = ""
        self._message = Message()

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has to be called: something is done with a pack."""
        return self._work is not None

    def follow(self, task: str) -> bool:
        """Show a pack of the task that is chosen now; return whether it is another task than before."""
        if task == self._task:
            return False
        self._task = task
        ids = [pack.manifest.id for pack in self._store.packs() if pack.manifest.task == task]
        if ids and self._chosen not in ids:
            self.choose(ids[0])
        return True

    def choose(self, pack_id: str) -> None:
        """Show the card of a pack."""
        if pack_id != self._chosen:
            self._chosen, self._message = pack_id, Message()

    def install(self, path: Path) -> None:
        """Begin to install a pack from a ``.kdpack`` file or a folder, completely verified."""

        def finished(pack: StudentPack | None) -> str:
            assert pack is not None  # noqa: S101 - for mypy
            self._chosen = pack.manifest.id
            text = _("Installed {id} {version}. All hashes are right.")
            return text.format(id=self._chosen, version=pack.manifest.version)

        self._begin(_("Installing {name} …").format(name=path.name), lambda: self._store.install(path), finished)

    def verify(self) -> None:
        """Begin to check all files of the chosen pack."""
        chosen = self._chosen
        what = _("Checking {id} …").format(id=chosen)
        self._begin(what, lambda: self._store.verify(chosen), _sentence(_("{id} {version}: all hashes are right.")))

    def remove(self) -> None:
        """Begin to remove the chosen pack; one that came with the extension shows again."""
        chosen = self._chosen
        text = _("Removed {id}.").format(id=chosen)
        self._begin(_("Removing {id} …").format(id=chosen), lambda: self._store.remove(chosen), lambda _pack: text)

    def roll_back(self) -> None:
        """Begin to bring back the version before the last installation of the chosen pack."""
        chosen = self._chosen
        what = _("Bringing back the version of {id} before …").format(id=chosen)
        self._begin(what, lambda: self._store.roll_back(chosen), _sentence(_("{id} is {version} again.")))

    def poll(self) -> bool:
        """Take over what was done in the background; return whether something has ended."""
        if self._work is None or not self._work[0].done():
            return False
        (pending, finished), self._work = self._work, None
        try:
            pack = pending.result()
            self._say(finished(pack), pack)
        except Exception as error:
            self._fail(in_words(error, _("to handle the pack")))
        return True

    def shut_down(self) -> None:
        """Begin nothing more; what was begun is finished."""
        self._work = None
        self._background.close()

    def _begin(
        self, what: str, work: Callable[[], StudentPack | None], finished: Callable[[StudentPack | None], str]
    ) -> None:
        if self._work is None:
            self._message = Message(text=what)
            self._work = self._background.submit(work), finished

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
        wait = _("Wait until this has ended.") if self.busy else ""
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
            busy_reason=wait,
            remove_reason=wait
            or ("" if chosen and not shipped else _("Models that came with the extension cannot be removed.")),
            roll_back_reason=wait or ("" if previous is not None else _("There is no version before this one.")),
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


def _sentence(text: str) -> Callable[[StudentPack | None], str]:
    """Return what says a sentence with the id and version of a pack."""
    return lambda pack: "" if pack is None else text.format(id=pack.manifest.id, version=pack.manifest.version)
