"""From a trained nnU-Net folder to a student pack that a clinical machine runs without torch."""

from distillation.export.pack_folder import ExportedPack, export_pack

__all__ = ["ExportedPack", "export_pack"]
