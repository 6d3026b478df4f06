"""Augmentation beyond nnU-Net's own, for images of other scanners, sequences and slice thicknesses."""
