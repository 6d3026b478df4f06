"""The errors of KDSegmentator: a small family, each saying what was wrong, where, and what to do."""

from __future__ import annotations


class KDSegmentatorError(Exception):
    """Base class of every error that KDSegmentator raises on purpose."""


class GeometryError(KDSegmentatorError):
    """A volume's size, spacing, origin or direction is not usable."""


class ImageReadError(KDSegmentatorError):
    """An image file is missing, damaged, or not a single-component 3-D image."""


class ImageWriteError(KDSegmentatorError):
    """An output file could not be written; nothing was left behind."""


class UnsuitableVolumeError(KDSegmentatorError):
    """A readable volume is not what the pack was made for (modality, field of view, label map, constant)."""


class ImplausibleVolumeError(UnsuitableVolumeError):
    """A volume that could be segmented does not look like what the pack was made for; the caller may overrule that.

    Args:
        message: what was found and what to give instead; how to overrule is added, if it does not end with that.

    Attributes:
        finding: the message without how to overrule, for a user interface that has another way.
    """

    OVERRULE = "If it is right, allow it with --unchecked (check_input=False)"

    def __init__(self, message: str) -> None:
        self.finding = message.removesuffix(self.OVERRULE).rstrip()
        super().__init__(f"{self.finding} {self.OVERRULE}")


class MissingPackageError(KDSegmentatorError, ImportError):
    """What was asked for needs a package that is not installed; the message says how to install it."""


class ManifestError(KDSegmentatorError):
    """A pack's manifest is not valid; the message names the field."""


class LockedError(KDSegmentatorError):
    """Another process is at work on the same files, or they are on a file system that knows no locks."""


class PackError(KDSegmentatorError):
    """A pack is missing, damaged, unsafe, or cannot be installed or removed."""


class EngineError(KDSegmentatorError):
    """An inference engine failed, or its output was not usable."""


class EngineUnavailableError(EngineError):
    """The engine that was asked for is not installed or does not run on this machine."""


class InsufficientMemoryError(KDSegmentatorError):
    """The machine does not have the memory that the work needs, whatever is made smaller."""


class CancelledError(KDSegmentatorError):
    """The caller cancelled the work; nothing was written."""


class InvalidSettingsError(KDSegmentatorError):
    """An option or a recipe setting has a value that makes no sense."""


class SceneError(KDSegmentatorError):
    """A node is not in the 3D Slicer scene (any more), or Slicer did not take what was to be added to it."""


class JobError(KDSegmentatorError):
    """The separate process of a segmentation could not be started, or broke before its result was complete."""


class NodeError(KDSegmentatorError):
    """The inference node cannot go on: a service is missing, its queue is damaged, a job does not exist."""


class DeliveryError(KDSegmentatorError):
    """A target did not take a result; it is tried again later."""


class WheelhouseError(KDSegmentatorError):
    """The wheels of the engines could not be downloaded or put into their folder."""


class TeacherError(KDSegmentatorError):
    """A folder is not a trained nnU-Net that can be distilled or exported."""


class TrainingError(KDSegmentatorError):
    """Training could not start or go on; what was trained so far is kept."""


class ExportError(KDSegmentatorError):
    """A network could not be exported to a pack that gives the same results."""
