"""Distillation losses: one stateless class a file, found by :mod:`distillation.losses.registry`."""
