"""Distillation losses: one stateless class a loss."""

from distillation.losses.logit import LogitDistillationLoss

__all__ = ["LogitDistillationLoss"]
