"""What a segmentation means: volumes, overlap, and a picture to check it by."""
