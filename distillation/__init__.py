"""Distilling nnU-Nets: offline, with torch and nnU-Net; never imported by KDSegmentatorLib."""
