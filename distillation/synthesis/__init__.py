"""Training images made from label maps of whole heads, so that their truth is known (Billot et al. 2023)."""
