"""The packs of this machine: shipped with KDSegmentator, or installed by the user.

The user's folder::

    hippocampus-x1_4/
        installed.json          which folder is current, and which to roll back to
        1.0.0-3f2a90c41b77/     the packs themselves, never changed once they are listed
        1.1.0-a84c11d02e5f/
    .staging-5d0e.../           an installation at work, or what a killed one left behind
    .lock

Replacing ``installed.json`` is the only step that counts, and it is atomic on every operating system: before it the old
pack is installed, after it the new one, and a kill at any moment leaves nothing but folders that nobody lists, which
the next change deletes. A pack that is in use while another version is installed goes on reading its own folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.arguments import meant
from KDSegmentatorLib.errors import KDSegmentatorError, LockedError, ManifestError, PackError
from KDSegmentatorLib.io.files import TEMPORARY_PREFIX, delete_tree, new_name, replace, sync_folder, sync_listing
from KDSegmentatorLib.io.lock import locked
from KDSegmentatorLib.packs.installed import (
    LIST_NAME,
    VERSION_FOLDER_PATTERN,
    Installed,
    read_installed,
    write_installed,
)
from KDSegmentatorLib.packs.locations import default_shipped_folder, default_user_folder, is_lasting
from KDSegmentatorLib.packs.names import ID_PATTERN, MANIFEST_NAME, version_key
from KDSegmentatorLib.packs.pack import StudentPack, open_pack, verify_pack
from KDSegmentatorLib.packs.pack_archive import extract_archive, write_error

LOCK_SECONDS = 30.0
"""How long a change waits for another process's change."""

_LOCK_NAME = ".lock"
_STAGING_PREFIX = ".staging-"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DamagedPack:
    """A pack of the store that cannot be used, and why."""

    id: str
    folder: Path
    shipped: bool
    error: KDSegmentatorError


class PackStore:
    """Lists, installs, removes and verifies packs.

    A pack that the user installed takes the place of a shipped one with the same id, also when it is damaged: another
    version than the one that was installed is never used silently.

    Args:
        user_folder: None for :func:`~KDSegmentatorLib.packs.locations.default_user_folder`.
        shipped_folder: None for :func:`~KDSegmentatorLib.packs.locations.default_shipped_folder`. Read only.
    """

    def __init__(self, user_folder: Path | str | None = None, shipped_folder: Path | str | None = None) -> None:
        self.user_folder = default_user_folder() if user_folder is None else Path(user_folder)
        self.shipped_folder = default_shipped_folder() if shipped_folder is None else Path(shipped_folder)

    def packs(self) -> list[StudentPack]:
        """Return the usable packs, sorted by id; :meth:`damaged` has the others."""
        return self.all_packs()[0]

    def damaged(self) -> list[DamagedPack]:
        """Return the packs that cannot be opened, sorted by id, each with its error."""
        return self.all_packs()[1]

    def all_packs(self) -> tuple[list[StudentPack], list[DamagedPack]]:
        """Return the usable and the damaged packs, each sorted by id; every manifest is read once."""
        names = {folder.name for folder in _folders(self.shipped_folder)}
        names |= {folder.name for folder in _folders(self.user_folder) if _is_id(folder.name)}
        entries = [entry for name in sorted(names) if (entry := self._entry(name)) is not None]
        usable = [entry for entry in entries if isinstance(entry, StudentPack)]
        return usable, [entry for entry in entries if isinstance(entry, DamagedPack)]

    def get(self, pack_id: str) -> StudentPack:
        """Return the pack with an id.

        Raises:
            PackError: there is none (the message lists those that there are), or it is damaged.
            ManifestError: its manifest is not valid.
        """
        found = self.find(pack_id)
        if found is None:
            raise PackError(f"{self._unknown(pack_id)}. 'kdseg packs install FILE.kdpack' adds one")
        return found

    def find(self, pack_id: str) -> StudentPack | None:
        """Return the pack with an id, None if there is none; no other pack is opened.

        Raises:
            PackError: it is damaged.
            ManifestError: its manifest is not valid.
        """
        found = self._entry(pack_id) if _is_id(pack_id) else None
        if isinstance(found, DamagedPack):
            raise found.error
        return found

    def is_shipped(self, pack_id: str) -> bool:
        """Return whether the pack with this id is the one that came with KDSegmentator (not one of the user)."""
        return not self._is_installed(pack_id) and self._is_shipped_folder(pack_id)

    def previous(self, pack_id: str) -> StudentPack | None:
        """Return the version that :meth:`roll_back` would bring back, or None if there is none that can be used."""
        with contextlib.suppress(KDSegmentatorError):
            installed = self._installed(pack_id)
            if installed is not None and installed.previous is not None:
                return _open_named(self.user_folder / pack_id / installed.previous, pack_id)
        return None

    def install(self, path: Path | str) -> StudentPack:
        """Install a pack, completely verified, in place of the one with the same id.

        The previous version stays for :meth:`roll_back`. Installing what is installed already changes nothing, unless
        the installed files are damaged. An older version is installed as well, with a warning in the log; compare with
        :meth:`previous` to tell the user.

        Args:
            path: a ``.kdpack`` file or a pack's folder.

        Raises:
            PackError: the pack is damaged or unsafe, the disk is full, the folder cannot be written, or another process
                is changing the packs. What was installed before is still there, and nothing else.
            ManifestError: the pack's manifest is not valid.
        """
        path = Path(path)
        if not path.is_file() and not path.is_dir():
            raise PackError(f"{path} does not exist; give a .kdpack file or a pack's folder")
        with self._changing():
            staging = self.user_folder / new_name(_STAGING_PREFIX)
            try:
                staged = _stage(path, staging)
            except (ManifestError, PackError) as error:  # who reads it finds no staging folder any more
                said = str(error).replace(f"{staging}{os.sep}", f"{path}: ").replace(str(staging), str(path))
                raise type(error)(said) from error
            return self._take_over(staged)

    def remove(self, pack_id: str) -> None:
        """Remove a pack that the user installed, with its previous version; a shipped one of the same id shows again.

        Raises:
            PackError: there is no such pack, it came with KDSegmentator, or it cannot be deleted.
        """
        folder = self.user_folder / pack_id
        if not self._is_installed(pack_id):
            if self._is_shipped_folder(pack_id):
                raise PackError(f"{pack_id} came with KDSegmentator and cannot be removed; only installed packs can be")
            raise PackError(self._unknown(pack_id))
        with self._changing():
            (folder / LIST_NAME).unlink(missing_ok=True)  # from here on it is not installed any more
            delete_tree(folder)

    def roll_back(self, pack_id: str) -> StudentPack:
        """Bring back the version before the last installation; a second roll-back undoes the first.

        Raises:
            PackError: there is no previous version, or it is damaged.
            ManifestError: its manifest is not valid.
        """
        if not _is_id(pack_id):
            raise PackError(self._unknown(pack_id))
        with self._changing():
            installed = self._installed(pack_id)
            if installed is None or installed.previous is None:
                raise PackError(
                    f"there is no previous version of {pack_id!r} to go back to; install the version that you want, or "
                    "remove the installed one to return to one that came with KDSegmentator"
                )
            pack = _open_named(self.user_folder / pack_id / installed.previous, pack_id)
            verify_pack(pack)
            write_installed(
                self.user_folder / pack_id, Installed(current=installed.previous, previous=installed.current)
            )
            return pack

    def verify(self, pack_id: str) -> StudentPack:
        """Check all hashes and the structure of a pack, and return it.

        Raises:
            PackError: there is no such pack, or a file is damaged.
            ManifestError: its manifest is not valid.
        """
        pack = self.get(pack_id)
        verify_pack(pack)
        return pack

    def _entry(self, name: str) -> StudentPack | DamagedPack | None:
        """Return what a folder name stands for: what the user installed, else what was shipped, else nothing."""
        own, shipped = self.user_folder / name, self.shipped_folder / name
        try:
            installed = self._installed(name) if _is_folder(own) else None
        except PackError as error:
            return DamagedPack(id=name, folder=own, shipped=False, error=error)
        if installed is not None:
            return _opened(name, own / installed.current, shipped=False)
        return _opened(name, shipped, shipped=True) if _is_folder(shipped) else None

    def _unknown(self, pack_id: str) -> str:
        """Return what to say of an id that no pack has."""
        packs = self.packs()
        of_task = [pack.manifest.id for pack in packs if pack.manifest.task == pack_id]
        if of_task:
            return f"{pack_id!r} is a task, not a pack; its packs: {', '.join(of_task)}"
        known = [pack.manifest.id for pack in packs]
        return f"there is no pack {pack_id!r}{meant(pack_id, known)}; packs: {', '.join(known) or 'none'}"

    def _is_shipped_folder(self, pack_id: str) -> bool:
        return _is_id(pack_id) and (self.shipped_folder / pack_id).is_dir()

    def _is_installed(self, pack_id: str) -> bool:
        """Return whether the user's folder has the pack, intact or not, listed or copied by hand."""
        try:
            return self._installed(pack_id) is not None
        except PackError:
            return True

    def _installed(self, pack_id: str) -> Installed | None:
        """Return what is installed, None if nothing is.

        Raises:
            PackError: the list of versions cannot be read, or a pack was copied here by hand.
        """
        return read_installed(self.user_folder / pack_id) if _is_id(pack_id) else None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Exclude other processes, and start and end without leftovers."""
        try:
            self.user_folder.mkdir(parents=True, exist_ok=True)
            if not is_lasting(self.user_folder):
                raise PackError(
                    "this user has no home folder to keep packs in; name a folder with the environment variable "
                    "KDSEGMENTATOR_PACKS"
                )
            with locked(self.user_folder / _LOCK_NAME, LOCK_SECONDS):
                self._delete_leftovers()
                try:
                    yield
                finally:
                    self._delete_leftovers()
        except LockedError as error:
            raise PackError(f"the packs cannot be changed: {error}") from error
        except OSError as error:
            raise write_error(self.user_folder, error) from error

    def _delete_leftovers(self) -> None:
        """Delete staging folders, and version folders and temporary files that no ``installed.json`` names."""
        for folder in list(self.user_folder.iterdir()):
            if folder.name.startswith(_STAGING_PREFIX):
                delete_tree(folder)
            elif _is_id(folder.name) and folder.is_dir():
                self._delete_unlisted(folder)

    def _delete_unlisted(self, folder: Path) -> None:
        try:
            installed = self._installed(folder.name)
        except PackError:
            return  # nobody knows what is current: keep everything
        kept = {installed.current, installed.previous} if installed else set()
        for entry in list(folder.iterdir()):
            if re.fullmatch(VERSION_FOLDER_PATTERN, entry.name) and entry.name not in kept:
                delete_tree(entry)
            elif entry.name.startswith(TEMPORARY_PREFIX):
                with contextlib.suppress(OSError):
                    entry.unlink()
        if installed is None:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _take_over(self, pack: StudentPack) -> StudentPack:
        """Make a staged and verified pack the current one of its id."""
        manifest = pack.manifest
        folder = self.user_folder / manifest.id
        installed = self._replaceable(manifest.id)
        current = None if installed is None else _usable(folder / installed.current, manifest.id)
        if current is not None and current.manifest_sha256 == pack.manifest_sha256:
            return current
        self._report_older(pack, current)
        folder.mkdir(exist_ok=True)
        target = folder / new_name(f"{manifest.version}-")
        replace(pack.folder, target)
        sync_listing(folder)
        # a damaged version is nothing to go back to: keep the one before it
        previous = None if installed is None else installed.previous if current is None else installed.current
        write_installed(folder, Installed(current=target.name, previous=previous))
        return StudentPack(manifest=manifest, folder=target, manifest_sha256=pack.manifest_sha256)

    def _replaceable(self, pack_id: str) -> Installed | None:
        """Return what is installed; an unreadable ``installed.json`` counts as nothing, so that installing repairs it.

        Raises:
            PackError: a pack was copied here by hand; it is not ours to delete.
        """
        try:
            return self._installed(pack_id)
        except PackError:
            if (self.user_folder / pack_id / LIST_NAME).exists():
                return None
            raise

    def _report_older(self, pack: StudentPack, current: StudentPack | None) -> None:
        manifest = pack.manifest
        if current is None and self._is_shipped_folder(manifest.id):
            current = _usable(self.shipped_folder / manifest.id, manifest.id, verify=False)
        if current is not None and version_key(manifest.version) < version_key(current.manifest.version):
            _log.warning(
                "installing %s %s, which is older than the present %s",
                manifest.id,
                manifest.version,
                current.manifest.version,
            )


def _is_id(name: str) -> bool:
    """Return whether a name is a pack's id, and with that a safe folder name."""
    return re.fullmatch(ID_PATTERN, name) is not None


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission to look
        return False


def _opened(pack_id: str, folder: Path, *, shipped: bool) -> StudentPack | DamagedPack:
    try:
        return _open_named(folder, pack_id)
    except KDSegmentatorError as error:
        return DamagedPack(id=pack_id, folder=folder, shipped=shipped, error=error)


def _open_named(folder: Path, pack_id: str) -> StudentPack:
    pack = open_pack(folder)
    if pack.manifest.id != pack_id:
        raise PackError(f"{folder} holds the pack {pack.manifest.id!r} instead of {pack_id!r}; install the pack again")
    return pack


def _usable(folder: Path, pack_id: str, *, verify: bool = True) -> StudentPack | None:
    """Return the pack if it is intact."""
    try:
        pack = _open_named(folder, pack_id)
        if verify:
            verify_pack(pack)
    except KDSegmentatorError:
        return None
    return pack


def _stage(path: Path, staging: Path) -> StudentPack:
    """Bring a pack to the staging folder, verify it there, and bring it to the disk."""
    if path.is_dir():
        source = open_pack(path)
        verify_pack(source)
        staging.mkdir()
        for name in (MANIFEST_NAME, *source.manifest.files):
            shutil.copyfile(source.folder / name, staging / name, follow_symlinks=False)
    else:
        extract_archive(path, staging)
    pack = open_pack(staging)
    verify_pack(pack)
    sync_folder(staging)
    return pack
