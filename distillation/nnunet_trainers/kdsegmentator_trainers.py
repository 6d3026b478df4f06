"""What nnU-Net finds in ``nnUNet_extTrainer``.

nnU-Net imports every module below that folder under a top-level name of its own, so the folder holds nothing but this
file and the trainers are imported from where they belong.
"""

from distillation.trainers import KDSegDistillingTrainer, KDSegPlainTrainer

__all__ = ["KDSegDistillingTrainer", "KDSegPlainTrainer"]
