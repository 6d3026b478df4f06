"""The two matrices by which a NIfTI header places its voxels: the sform and the qform, and whether they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, ImageReadError, ImageWriteError
from KDSegmentatorLib.geometry import Volume, check_placement, matrix, vector

_CODE_NAMES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LPS_TO_RAS = _RAS_TO_LPS

_DISAGREEMENT_VOXELS = 0.1
"""The sform and the qform may place a corner differently by this fraction of the smallest spacing."""

_ROUNDED_DISAGREEMENT_VOXELS = 0.5
"""The same where one of the two is exact and the other was rounded to three or four decimals."""

_QUATERNION_ROUNDING = 2.4e-7
"""Rounding error of 1 - b^2 - c^2 - d^2, from which a reader computes the quaternion's first element, in float32."""


@dataclass(frozen=True, kw_only=True)
class Forms:
    """The two placements of a NIfTI header, as they are stored.

    Attributes:
        qform_code: 0: there is no qform.
        sform_code: 0: there is no sform.
        factor: 1, or -1 if the qform is left-handed (``pixdim[0]``).
        spacing: along i, j, k in mm (``pixdim[1:4]``).
        quaternion: b, c, d, and the place of the first voxel in RAS.
        rows: of the sform, 12 numbers.
    """

    qform_code: int
    sform_code: int
    factor: float
    spacing: tuple[float, ...]
    quaternion: tuple[float, ...]
    rows: tuple[float, ...]

    @property
    def sform(self) -> npt.NDArray[np.float64]:
        """4 x 4 matrix from (i, j, k, 1) to (R, A, S, 1)."""
        affine = np.eye(4)
        affine[:3] = np.reshape(self.rows, (3, 4))
        return affine

    @property
    def qform(self) -> npt.NDArray[np.float64]:
        """4 x 4 matrix from (i, j, k, 1) to (R, A, S, 1)."""
        factor = -1 if self.factor < 0 else 1
        affine = np.eye(4)
        with np.errstate(invalid="ignore"):  # what is not finite is reported by :func:`placement`
            affine[:3, :3] = _rotation(self.quaternion[:3]) * [*self.spacing[:2], self.spacing[2] * factor]
        affine[:3, 3] = self.quaternion[3:]
        return affine


def placement(forms: Forms, size: tuple[int, int, int]) -> tuple[npt.NDArray[np.float64], str]:
    """Return the matrix from (i, j, k, 1) to (L, P, S, 1) that both forms agree on, and what to know about it.

    As in ITK, the sform counts if its code is 1 (scanner) or there is no qform, otherwise the qform; but of one form
    that is exact and one that was rounded, the exact one.
    """
    if not all(math.isfinite(value) and value > 0 for value in forms.spacing):
        raise GeometryError(f"the spacing (pixdim) {forms.spacing} mm is not positive; repair the image's header")
    used = {}
    if forms.sform_code > 0:
        used["sform"] = forms.sform
    if forms.qform_code > 0:
        used["qform"] = forms.qform
    if not used:
        raise ImageReadError(
            "the header does not say how the image lies in the patient (sform and qform code are 0), so left and right "
            "cannot be told apart; check its orientation in a viewer and save it with an sform or qform code above 0"
        )
    for name, affine in used.items():
        if not np.isfinite(affine).all() or not np.linalg.norm(affine[:3, :3], axis=0).all():
            raise GeometryError(f"the {name} is not a usable matrix ({affine[:3].tolist()}); repair the image's header")
    inexact = {name: error for name, affine in used.items() if (error := _inexact(name, affine, forms.spacing))}
    chosen = "sform" if "sform" in used and (forms.sform_code == 1 or "qform" not in used) else "qform"
    note = ""
    if len(used) == 2:
        rounded = len(inexact) == 1
        distance = _check_agreement(forms, size, rounded=rounded)
        if rounded:
            chosen = "qform" if "sform" in inexact else "sform"
            note = f"the {next(iter(inexact))} is rounded (up to {distance:.3g} mm off); the exact {chosen} is taken"
    if chosen in inexact:
        raise inexact[chosen]
    return _RAS_TO_LPS @ used[chosen], note


def _inexact(name: str, affine: npt.NDArray[np.float64], spacing: tuple[float, ...]) -> GeometryError | None:
    """Return why a form cannot place the voxels by itself, None if it can."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(lengths / spacing - 1).max() > 1e-3:
        return GeometryError(
            f"the header says two different things about the spacing: {_text(spacing)} mm (pixdim) and "
            f"{_text(lengths)} mm ({name}); find out which is right and repair the header"
        )
    try:
        check_placement(vector(lengths), vector(affine[:3, 3]), matrix(affine[:3, :3] / lengths))
    except GeometryError as error:
        return GeometryError(f"{name}: {error}")
    return None


def _check_agreement(forms: Forms, size: tuple[int, int, int], *, rounded: bool) -> float:
    """Return by how many mm the two forms place a corner differently, at most."""
    corners = np.array([[*index, 1] for index in product(*((0, length - 1) for length in size))], dtype=float)
    by_sform, by_qform = (corners @ (_RAS_TO_LPS @ affine).T for affine in (forms.sform, forms.qform))
    distances = np.linalg.norm(by_sform - by_qform, axis=1)
    worst = int(np.argmax(distances))
    extent = math.hypot(*(length * step for length, step in zip(size, forms.spacing, strict=True)))
    allowed = _ROUNDED_DISAGREEMENT_VOXELS if rounded else _DISAGREEMENT_VOXELS
    tolerance = allowed * min(forms.spacing) + _rounding_angle(forms.qform) * extent
    if distances[worst] > tolerance:
        raise ImageReadError(
            "the header says two different things about where the image lies: "
            f"the sform ({_code(forms.sform_code)}) puts voxel {tuple(map(int, corners[worst, :3]))} at "
            f"(L, P, S) = {_text(by_sform[worst])} mm, the qform ({_code(forms.qform_code)}) at "
            f"{_text(by_qform[worst])} mm, {distances[worst]:.3g} mm apart. Find out which one is right and set the "
            "code of the other to 0, for example with nibabel: image.set_qform(None) keeps the sform, "
            "image.set_sform(None) the qform"
        )
    return float(distances[worst])


def _rounding_angle(qform: npt.NDArray[np.float64]) -> float:
    """Return by how many radians float32 rounding of the quaternion may turn the qform.

    Its first element is not stored but computed as sqrt(1 - b^2 - c^2 - d^2), which is ill-conditioned for turns by
    about 180 degrees.
    """
    rotation = qform[:3, :3] / np.linalg.norm(qform[:3, :3], axis=0)
    if np.linalg.det(rotation) < 0:
        rotation[:, 2] *= -1
    first = math.sqrt(max(np.trace(rotation) + 1, 0.0)) / 2
    return 2 * min(math.sqrt(_QUATERNION_ROUNDING), _QUATERNION_ROUNDING / (2 * max(first, 1e-9)))


def _rotation(quaternion: tuple[float, ...]) -> npt.NDArray[np.float64]:
    b, c, d = quaternion
    rest = 1 - (b * b + c * c + d * d)
    if rest < 1e-7:  # as the NIfTI library does
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = math.sqrt(rest)
    return np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ])  # fmt: skip


def _quaternion(rotation: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return b, c, d of a rotation matrix, with a >= 0."""
    # The matrix of Bar-Itzhack, whose eigenvector to the largest eigenvalue is the quaternion, well-conditioned always.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array([
        [xx - yy - zz, xy + yx, xz + zx, zy - yz],
        [xy + yx, yy - xx - zz, yz + zy, xz - zx],
        [xz + zx, yz + zy, zz - xx - yy, yx - xy],
        [zy - yz, xz - zx, yx - xy, xx + yy + zz],
    ]) / 3  # fmt: skip
    b, c, d, a = np.linalg.eigh(symmetric)[1][:, 3]
    sign = -1.0 if a < 0 else 1.0
    return float(sign * b), float(sign * c), float(sign * d)


def forms_of(volume: Volume) -> Forms:
    """Return an sform and, if it can hold the direction, a qform for a volume."""
    ras = _LPS_TO_RAS @ volume.affine
    rotation = ras[:3, :3] / np.linalg.norm(ras[:3, :3], axis=0)
    factor = -1.0 if np.linalg.det(rotation) < 0 else 1.0
    rotation[:, 2] *= factor
    both = Forms(
        qform_code=1, sform_code=1, factor=factor, spacing=tuple(volume.spacing),
        quaternion=(*_quaternion(rotation), *ras[:3, 3]), rows=tuple(ras[:3].ravel()),
    )  # fmt: skip
    if places(both, volume):
        return both
    # a quaternion cannot hold a direction that is not orthonormal to the last digit (cosines printed with six)
    alone = Forms(
        qform_code=0, sform_code=1, factor=factor, spacing=both.spacing, quaternion=both.quaternion, rows=both.rows
    )
    if places(alone, volume):
        return alone
    raise ImageWriteError(
        f"NIfTI cannot hold where this volume lies (origin {volume.origin} mm) to a thousandth of a voxel; write "
        ".nrrd or .mha"
    )


def places(forms: Forms, volume: Volume) -> bool:
    """Return whether forms, stored in float32, place the voxels of a volume where they are, for every reader."""

    def stored(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(float(np.float32(value)) for value in values)

    kept = Forms(
        qform_code=forms.qform_code, sform_code=forms.sform_code, factor=forms.factor, spacing=stored(volume.spacing),
        quaternion=stored(forms.quaternion), rows=stored(forms.rows),
    )  # fmt: skip
    try:
        read, _ = placement(kept, volume.size)
        lengths = np.linalg.norm(read[:3, :3], axis=0)
        grid = Volume(volume.voxels, vector(kept.spacing), vector(read[:3, 3]), matrix(read[:3, :3] / lengths))
        if not grid.same_grid(volume):
            return False
    except (GeometryError, ImageReadError):
        return False
    return True


def _code(code: int) -> str:
    return f"code {code}, {_CODE_NAMES[code]}" if code in _CODE_NAMES else f"code {code}"


def _text(values: npt.ArrayLike) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values, dtype=float)[:3]) + ")"
