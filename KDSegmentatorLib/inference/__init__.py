"""Torch-free inference that reproduces nnU-Net's: see :func:`KDSegmentatorLib.inference.pipeline.segment`."""
