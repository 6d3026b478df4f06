"""3D Slicer's application in miniature, to run the module's own code and self-tests where there is no Slicer.

Real are the MRML scene and its nodes (slicer-core), the workers, the engines, and Qt (PySide6, off-screen). Put in
their place are PythonQt's way to reach Qt, the widgets of CTK and Slicer as far as the panel uses them, and
``parameterNodeWrapper``. It finds mistakes in the module's code, not in what it assumes about Slicer: for that, the
self-tests run in the application (``Testing/Slicer/run_self_tests.py``).
"""
