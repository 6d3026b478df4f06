"""Between the library and 3D Slicer's scene: volume nodes in, segmentation nodes out.

Imports ``slicer`` and ``vtk`` when they are used, nothing of ``qt``; runs in 3D Slicer and with the PyPI package
``slicer-core``. MRML places voxels in RAS (right, anterior, superior), the library in LPS.
"""
