"""Inference engines: one small class each, chosen by :mod:`KDSegmentatorLib.engines.selection`."""
