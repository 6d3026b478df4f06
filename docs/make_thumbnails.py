"""Draw KDSegmentator/Resources/Tasks/<task>.png: what each shipped task finds, as a small picture in 3-D.

    make thumbnails

Each picture is the result of a shipped pack: on the heads that pydeface and nilearn ship, on the shipped hippocampus,
and on CTs of OpenKBP and BTCV, which KDSEG_DATA has to lead to (without them those pictures stay as they are). The
background is transparent and the edge is dark, for light and dark styles alike.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import vtk
from PIL import Image, ImageFilter
from real_heads import load_average_head, load_template
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from KDSegmentatorLib import Segmentation, Segmenter, Volume, read_volume

ROOT = Path(__file__).resolve().parents[1]
TASKS = ROOT / "KDSegmentator" / "Resources" / "Tasks"
HIPPOCAMPUS = ROOT / "KDSegmentator" / "Resources" / "Samples" / "KDSegmentator-hippocampus.nrrd"
PLANNING_CT = "Dataset201_HeadNeckCT/imagesTr/HN_017_0000.nii.gz"
ABDOMINAL_CT = "Dataset301_AbdomenCT/imagesTr/btcv21_0000.nii.gz"

SIDE = 160
"""Of the picture, in pixels."""

_OVERSAMPLING = 4
_BITS = 6
"""A channel: the eye sees no difference, and the file is smaller by a third."""

_LARGE_VOXELS, _BALL_VOXELS = 1_000_000, 8

_EDGE = (38, 42, 52)
_EDGE_OPACITY = 0.55

Rgb = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is drawn of one task.

    Attributes:
        task: of the packs.
        size: of the pack.
        load: returns the scan; None where it is not on this computer.
        seen_from: direction to the camera, (R, A, S).
        smoothing: of the surfaces, passes of a windowed sinc filter.
        shown: whether a structure is drawn, by its name.
        colors: in the place of the pack's, by name.
        reach_mm: how far down from the highest point of the structures is drawn.
        outside: opacity of the head's surface round the structures; 0 for none.
    """

    task: str
    size: str
    load: Callable[[], Volume | None]
    seen_from: tuple[float, float, float]
    smoothing: int = 30
    shown: Callable[[str], bool] = lambda _name: True
    colors: dict[str, Rgb] | None = None
    reach_mm: float = 1000.0
    outside: float = 0.0


def main() -> None:
    """Draw those that are named as arguments; all without any."""
    TASKS.mkdir(exist_ok=True)
    for scene in SCENES:
        if len(sys.argv) > 1 and scene.task not in sys.argv[1:]:
            continue
        scan = scene.load()
        if scan is not None:
            segmentation = Segmenter(scene.task, scene.size)(scan)
            thumbnail(drawn(scene, scan, segmentation)).save(TASKS / f"{scene.task}.png", optimize=True)


def drawn(scene: Scene, scan: Volume, segmentation: Segmentation) -> npt.NDArray[np.float64]:
    """Return the picture, (row, column, RGBA), 0 to 1, colours not multiplied by their opacity."""
    renderer = vtk.vtkRenderer()
    reached = within_reach(segmentation.volume, scene.reach_mm)
    for label in segmentation.labels:
        if scene.shown(label.name):
            inside = (segmentation.volume.voxels == label.value) & reached
            surface = structure_surface(segmentation.volume, largest_piece(inside), scene.smoothing)
            color = (scene.colors or {}).get(label.name, tuple(channel / 255 for channel in label.color))
            renderer.AddActor(actor(surface, color))
    if scene.outside:
        head = structure_surface(scan, head_of(scan), 40)
        renderer.AddActor(actor(head, (0.72, 0.76, 0.84), opacity=scene.outside))
    window = off_screen_window(renderer)
    look_from(renderer, scene.seen_from)
    black, white = pixels(window, renderer, (0, 0, 0)), pixels(window, renderer, (1, 1, 1))
    opacity = np.clip(1 - (white - black).mean(axis=2), 0, 1)
    colors = np.where(opacity[..., None] > 0, black / np.maximum(opacity[..., None], 1e-6), 0)
    return np.dstack([np.clip(colors, 0, 1), opacity])


def within_reach(labels: Volume, reach_mm: float) -> npt.NDArray[np.bool_]:
    """Return the voxels, (z, y, x), that lie no deeper than this below the highest labelled one."""
    k, j, i = np.indices(labels.voxels.shape, sparse=True)
    superior = labels.affine[2, :3] @ np.array([i, j, k], dtype=object) + labels.affine[2, 3]
    return np.asarray(superior >= superior[labels.voxels > 0].max() - reach_mm)


def structure_surface(grid: Volume, inside: npt.NDArray[np.bool_], smoothing: int) -> Any:
    """Return the surface of a structure in RAS, mm; ``inside`` is (z, y, x) on the grid's voxels."""
    padded = np.pad(inside, 1).astype(np.uint8)
    image = vtk.vtkImageData()
    image.SetDimensions(*padded.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=True))
    nets = vtk.vtkSurfaceNets3D()
    nets.SetInputData(image)
    nets.SetValue(0, 1)
    nets.SmoothingOff()
    nets.SetOutputMeshTypeToTriangles()
    to_ras = vtk.vtkMatrix4x4()
    padding = np.eye(4)
    padding[:3, 3] = -1
    to_ras.DeepCopy((np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine @ padding).ravel())
    transform = vtk.vtkTransform()
    transform.SetMatrix(to_ras)
    placed = vtk.vtkTransformPolyDataFilter()
    placed.SetInputConnection(nets.GetOutputPort())
    placed.SetTransform(transform)
    smooth = vtk.vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(placed.GetOutputPort())
    smooth.SetNumberOfIterations(smoothing)
    smooth.SetPassBand(0.02)
    smooth.NormalizeCoordinatesOn()
    smooth.NonManifoldSmoothingOn()
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(smooth.GetOutputPort())
    normals.SplittingOff()
    normals.AutoOrientNormalsOn()
    normals.Update()
    return normals.GetOutput()


def largest_piece(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the largest piece of a structure, and of a large one what no ball fits into cut off, (z, y, x).

    Brain extraction takes some scalp above the average head's vertex for brain, 12 of 1460 ml: a picture of what the
    task finds does without.
    """
    from scipy import ndimage

    if inside.sum() > _LARGE_VOXELS:
        core = ndimage.distance_transform_edt(inside) > _BALL_VOXELS
        inside = np.asarray(ndimage.distance_transform_edt(~core) <= _BALL_VOXELS)
    pieces, count = ndimage.label(inside)
    return inside if count < 2 else np.asarray(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))


def head_of(scan: Volume) -> npt.NDArray[np.bool_]:
    """Return what is not air, without its holes."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(scan.voxels.astype(np.float32), 2.5)
    bright = smooth > 0.18 * np.percentile(smooth, 99)
    return np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(largest_piece(bright), iterations=4)))


def actor(surface: Any, color: Rgb, *, opacity: float = 1.0) -> Any:
    """Return a surface as it is drawn."""
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputData(surface)
    mapper.ScalarVisibilityOff()
    found = vtk.vtkActor()
    found.SetMapper(mapper)
    look = found.GetProperty()
    look.SetColor(*color)
    look.SetOpacity(opacity)
    look.SetInterpolationToPhong()
    look.SetAmbient(0.22)
    look.SetDiffuse(0.95)
    look.SetSpecular(0.18)
    look.SetSpecularPower(20)
    if opacity < 1:
        look.BackfaceCullingOn()
    return found


def off_screen_window(renderer: Any) -> Any:
    """Return a window that is not shown."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetSize(SIDE * _OVERSAMPLING, SIDE * _OVERSAMPLING)
    window.AddRenderer(renderer)
    shading = vtk.vtkSSAOPass()  # hollows are darker, which tells what lies in front
    steps = vtk.vtkRenderStepsPass()
    shading.SetRadius(12.0)
    shading.SetBias(0.6)
    shading.SetKernelSize(64)
    shading.BlurOn()
    shading.SetDelegatePass(steps)
    renderer.SetPass(shading)
    return window


def look_from(renderer: Any, direction: tuple[float, float, float]) -> None:
    """Look at everything from a direction (R, A, S), head up, and light it from above the camera's left."""
    camera = renderer.GetActiveCamera()
    camera.SetFocalPoint(0, 0, 0)
    camera.SetPosition(*direction)
    camera.SetViewUp(0, 0, 1)
    camera.SetViewAngle(18)
    renderer.ResetCamera()
    camera.Zoom(1.28)
    renderer.ResetCameraClippingRange()
    renderer.AutomaticLightCreationOff()
    for position, strength in (((-0.6, 0.9, 1.0), 1.0), ((0.9, -0.2, 0.8), 0.4)):
        light = vtk.vtkLight()
        light.SetLightTypeToCameraLight()
        light.SetPosition(*position)
        light.SetIntensity(strength)
        renderer.AddLight(light)


def pixels(window: Any, renderer: Any, background: Rgb) -> npt.NDArray[np.float64]:
    """Return what is drawn on a background, (row from the top, column, RGB), 0 to 1."""
    renderer.SetBackground(*background)
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.SetInputBufferTypeToRGB()
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    width, height, _ = image.GetDimensions()
    found = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1]
    return np.asarray(found, np.float64) / 255


def thumbnail(picture: npt.NDArray[np.float64]) -> Image.Image:
    """Return the picture cropped to what is drawn, small, with a dark edge."""
    rows, columns = (np.flatnonzero(picture[..., 3].max(axis=axis) > 0.02) for axis in (1, 0))
    cropped = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    premultiplied = cropped.copy()
    premultiplied[..., :3] *= cropped[..., 3:]
    inner = SIDE - 12
    scale = inner / max(cropped.shape[:2])
    size = max(1, round(cropped.shape[1] * scale)), max(1, round(cropped.shape[0] * scale))
    channels = [
        np.asarray(Image.fromarray(premultiplied[..., n].astype(np.float32)).resize(size, Image.Resampling.LANCZOS))
        for n in range(4)
    ]
    small = np.zeros((SIDE, SIDE, 4))
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    small[top : top + size[1], left : left + size[0]] = np.clip(np.dstack(channels), 0, 1)
    opacity = Image.fromarray((small[..., 3] * 255).astype(np.uint8))
    edge = np.asarray(opacity.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.GaussianBlur(0.7))) / 255.0
    edge = edge * _EDGE_OPACITY * (1 - small[..., 3])
    alpha = small[..., 3] + edge
    color = small[..., :3] + edge[..., None] * np.array(_EDGE) / 255
    color = np.where(alpha[..., None] > 0, color / np.maximum(alpha[..., None], 1e-6), 0)
    levels = (1 << _BITS) - 1
    whole = (np.clip(np.dstack([color, alpha]), 0, 1) * levels).round() * (255 / levels)
    whole[alpha == 0] = 0
    return Image.fromarray(whole.round().astype(np.uint8), "RGBA")


def data_set(case: str) -> Volume | None:
    """Return a scan below KDSEG_DATA, if the data are there."""
    folder = os.environ.get("KDSEG_DATA")
    path = Path(folder or "", case)
    return read_volume(path) if folder and path.is_file() else None


def _right_half_and_midline(name: str) -> bool:
    """Return whether a structure is drawn in the cut-away of the brain: no cortex and white matter of the left."""
    return name not in {
        *(f"Left {lobe} cortex" for lobe in ("frontal", "parietal", "temporal", "occipital", "cingulate", "insular")),
        "Left cerebral white matter",
    }


SCENES = (
    Scene(
        task="brain-t1",
        size="x1/2",
        load=load_template,
        seen_from=(-1.0, 0.55, 0.35),
        shown=_right_half_and_midline,
    ),
    Scene(
        task="brain-extraction",
        size="x1/4",
        load=load_average_head,
        seen_from=(-1.0, 0.75, 0.15),
        colors={"Brain": (0.90, 0.62, 0.58)},
        outside=0.25,
    ),
    Scene(
        task="hippocampus",
        size="x1/4",
        load=lambda: read_volume(HIPPOCAMPUS),
        seen_from=(-1.0, 0.35, 0.45),
    ),
    Scene(
        task="head-neck-ct",
        size="x1/4",
        load=partial(data_set, PLANNING_CT),
        seen_from=(-0.5, 1.0, 0.2),
        smoothing=40,
        reach_mm=150.0,
    ),
    Scene(
        task="abdomen-ct",
        size="x1/4",
        load=partial(data_set, ABDOMINAL_CT),
        seen_from=(0.15, 1.0, 0.15),
        smoothing=40,
    ),
)


if __name__ == "__main__":
    main()
