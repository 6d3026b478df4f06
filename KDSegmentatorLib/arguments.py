"""Values of the wrong kind, and names that are nearly right: the words of every error about them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from KDSegmentatorLib.errors import InvalidSettingsError, KDSegmentatorError

_MOST_MEANT = 3


def as_path(value: object, wanted: str, error: type[KDSegmentatorError]) -> Path:
    """Return a path.

    Args:
        value: what was given.
        wanted: what it should be, for the message.
        error: the kind of error to raise.

    Raises:
        KDSegmentatorError: of that kind; it is no text and no path, or names nothing.

    Examples:
        >>> as_path("t1.nii.gz", "the name of an image", ImageReadError)
        PosixPath('t1.nii.gz')
    """
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        if isinstance(path, str) and path:
            return Path(path)
    raise error(f"give {wanted}, as text or pathlib.Path, not {described(value)}")


def check_callable(value: object, name: str, example: str) -> None:
    """Check that a value can be called; None stands for nothing to call.

    Args:
        value: what was given.
        name: of the argument.
        example: what it may look like, for the message.

    Raises:
        InvalidSettingsError: it cannot be called.
    """
    if value is not None and not callable(value):
        raise InvalidSettingsError(f"{name} must be a function, such as {example}, or None, not {described(value)}")


def check_known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Check names of arguments.

    Args:
        names: what was given.
        known: what there is.
        what: what takes them, for the message.

    Raises:
        InvalidSettingsError: there is no such argument.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise InvalidSettingsError(
                f"{what} has no option {name!r}{meant(name, known)}; there are: {', '.join(known)}"
            )


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that were probably meant, the likeliest first.

    Case, ``-``, ``_`` and blanks do not count; names that hold what was given come before those that look like it.
    """
    by_key = {plain(each): each for each in known}
    key = plain(name)
    if not key:
        return []
    parts = [by_key[each] for each in by_key if key in each]
    return (parts or [by_key[each] for each in get_close_matches(key, by_key, n=_MOST_MEANT)])[:_MOST_MEANT]


def meant(name: str, known: Iterable[str]) -> str:
    """Return `` (do you mean 'brain-t1'?)``; empty if no known name is close."""
    close = close_names(name, known)
    return f" (do you mean {' or '.join(map(repr, close))}?)" if close else ""


def plain(name: str) -> str:
    """Return a name as it is compared: ``Left_thalamus`` is ``leftthalamus``, and ``Brainstem`` is ``Brain stem``."""
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")


def described(value: object) -> str:
    """Return what a value of the wrong kind is, in a few words: ``None``, ``3``, ``a numpy.ndarray of shape (2,)``."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    kind = type(value)
    name = kind.__name__ if kind.__module__ in ("builtins", "pathlib") else f"{kind.__module__}.{kind.__name__}"
    return f"a {name}" + (f" of shape {value.shape}" if hasattr(value, "shape") else "")
