"""What the panel of the KDSegmentator module does, without Qt: states, choices, texts, and the way through a run.

Qt is bound to it in ``KDSegmentator.py``; the work itself is done in ``KDSegmentatorLib``.
"""
