"""``python -m KDSegmentatorLib`` is ``kdseg``, for computers whose path does not lead to it."""

import sys

from KDSegmentatorLib.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
