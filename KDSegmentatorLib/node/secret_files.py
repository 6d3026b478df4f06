"""Passwords and keys: in files of their own that only the node's user may read."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from KDSegmentatorLib.errors import InvalidSettingsError


def new_secret(path: Path) -> str:
    """Write a new password into a file, unless there is one; return what it holds.

    Raises:
        OSError: it cannot be written.
        InvalidSettingsError: see :func:`read_secret`.
    """
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
    return read_secret(path)


def read_secret(path: Path) -> str:
    """Return the first line of a file that holds a secret.

    Raises:
        InvalidSettingsError: it cannot be read, is empty, or others may read it.
    """
    try:
        if (problem := exposed(path)) is not None:
            raise InvalidSettingsError(problem)
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidSettingsError(f"the secret {path} cannot be read ({error.strerror})") from error
    if not lines or not lines[0].strip():
        raise InvalidSettingsError(f"the secret {path} is empty; write the password into its first line")
    return lines[0].strip()


def exposed(path: Path) -> str | None:
    """Return what is wrong if others than the node's user may read a file; None if nothing is, and on Windows.

    Raises:
        OSError: there is no such file.
    """
    mode = path.stat().st_mode
    if sys.platform == "win32" or not mode & 0o077:  # Windows has access lists instead
        return None
    return f"others may read the secret {path} (mode {mode & 0o777:o}); run: chmod 600 {path}"
