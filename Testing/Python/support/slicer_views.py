"""Slicer's slice and 3-D views without the application: real displayable managers, off-screen.

In the application Qt widgets put the parts together (qMRMLSliceView, qMRMLThreeDView); here it is done by hand. The
order matters: managers are registered in the factory before a group is made of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

if sys.platform == "linux" and not os.environ.get("DISPLAY"):  # else VTK complains before it takes this one
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

Orientation = Literal["Axial", "Sagittal", "Coronal"]

_SLICE_MANAGERS = ("vtkMRMLSegmentationsDisplayableManager2D",)
_THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
)


class Application:
    """What the views of a scene share: application logic, colours, conversions, orientations.

    Args:
        scene: of the nodes to show.
    """

    def __init__(self, scene: Any) -> None:
        self.scene = scene
        self.logic = slicer.vtkSlicerApplicationLogic()
        self.logic.SetMRMLScene(scene)
        self.logic.GetColorLogic().SetMRMLScene(scene)  # grey, without which volumes have no display
        self.logic.SetSliceLogics(vtk.vtkCollection())
        self.logic.SetViewLogics(vtk.vtkCollection())
        self._segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
        self._segmentations.SetMRMLScene(scene)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)  # the patient's left is on the right


class _View:
    """A render window with a group of displayable managers."""

    def __init__(
        self, application: Application, factory_class: Any, managers: tuple[str, ...], size: tuple[int, int]
    ) -> None:
        factory = factory_class.GetInstance()
        factory.SetMRMLApplicationLogic(application.logic)
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.renderer = vtk.vtkRenderer()
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        self.managers = slicer.vtkMRMLDisplayableManagerGroup()
        self.managers.Initialize(factory, self.renderer)

    def pixels(self) -> np.ndarray[Any, Any]:
        """Render and return the picture, (row from the top, column, RGB), uint8."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.SetInputBufferTypeToRGB()
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return np.array(vtk_to_numpy(image.GetPointData().GetScalars())).reshape(height, width, 3)[::-1]

    def close(self) -> None:
        """Let go of the scene and the window."""
        self.managers.SetMRMLDisplayableNode(None)
        self.window.Finalize()


class SliceView(_View):
    """A slice view.

    Args:
        application: of the scene.
        orientation: of the slice.
        size: width and height in pixels.
    """

    def __init__(self, application: Application, orientation: Orientation, size: tuple[int, int] = (400, 400)) -> None:
        super().__init__(application, slicer.vtkMRMLSliceViewDisplayableManagerFactory, _SLICE_MANAGERS, size)
        self.renderer.SetLayer(1)  # over the image, which has a renderer of its own, as in the application
        self._image_renderer = vtk.vtkRenderer()
        self.window.SetNumberOfLayers(2)
        self.window.AddRenderer(self._image_renderer)
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application.logic)
        application.logic.GetSliceLogics().AddItem(self._logic)
        self._logic.SetMRMLScene(application.scene)
        self.node = self._logic.AddSliceNode(orientation)
        self.node.SetOrientation(orientation)
        self.managers.SetMRMLDisplayableNode(self.node)
        mapper = vtk.vtkImageMapper()  # the blended image is RGBA already
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(mapper)
        self._image_renderer.AddViewProp(self._actor)
        self._mapper = mapper

    def show(self, volume: Any, ras: tuple[float, float, float] | None = None) -> None:
        """Show the slice of a volume through a point (RAS, mm), or through the volume's middle."""
        self._logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
        self._logic.ResizeSliceNode(*self.window.GetSize())
        self._logic.FitSliceToBackground()
        if ras is not None:
            self.node.JumpSliceByOffsetting(*ras)
        self._logic.SnapSliceOffsetToIJK()
        self._mapper.SetInputConnection(self._logic.GetImageDataConnection())

    def pixel_of(self, ras: tuple[float, float, float]) -> tuple[int, int]:
        """Return the pixel, (row from the top, column), at a point (RAS, mm)."""
        to_ras = self.node.GetXYToRAS()
        to_xy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(to_ras, to_xy)
        x, y = to_xy.MultiplyPoint([*ras, 1.0])[:2]
        return self.window.GetSize()[1] - 1 - round(y), round(x)


class ThreeDView(_View):
    """A 3-D view, seen from the patient's front.

    Args:
        application: of the scene.
        size: width and height in pixels.
    """

    def __init__(self, application: Application, size: tuple[int, int] = (400, 400)) -> None:
        super().__init__(application, slicer.vtkMRMLThreeDViewDisplayableManagerFactory, _THREE_D_MANAGERS, size)
        self._logic = slicer.vtkMRMLViewLogic()
        self._logic.SetMRMLApplicationLogic(application.logic)
        application.logic.GetViewLogics().AddItem(self._logic)
        self._logic.SetMRMLScene(application.scene)
        self.node = self._logic.AddViewNode("View1")
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self.managers.SetMRMLDisplayableNode(self.node)

    def look(self, position: tuple[float, float, float], up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> None:
        """Look at everything from a direction (RAS)."""
        self.window.Render()
        camera = self.renderer.GetActiveCamera()
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(*position)
        camera.SetViewUp(*up)
        self.renderer.ResetCamera()
        self.renderer.ResetCameraClippingRange()


def write_png(pixels: np.ndarray[Any, Any], path: Path) -> None:
    """Write a picture."""
    from PIL import Image

    Image.fromarray(pixels).save(path)
