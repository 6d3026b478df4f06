"""Segmentation in a process of its own: request, progress, cancel, result."""
