"""How fast a machine is: its engine at networks of any width, and numpy at everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

NOMINAL_FLOPS = ((8, 55e9), (32, 79e9), (96, 88e9))
"""Width to floating-point operations a second of one core of the reference machine, an AMD EPYC (Zen 3, AVX2), with
OpenVINO in float32."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a machine is with one engine, device, precision and number of threads.

    Attributes:
        flops: (channels, floating-point operations a second of 3x3x3 convolutions with what belongs to them), sorted
            by channels.
        arrays: speed of numpy in one thread, as a multiple of the reference machine's.
        measured: False if ``flops`` is only what the reference machine would do, scaled by ``arrays``.
    """

    flops: tuple[tuple[int, float], ...]
    arrays: float
    measured: bool = True

    def flops_at(self, width: float) -> float:
        """Return the floating-point operations a second at a number of channels.

        Between two measured widths the logarithm is interpolated over the logarithm; beyond them the rate stays.
        """
        if width <= self.flops[0][0]:
            return self.flops[0][1]
        for (narrow, slow), (wide, fast) in pairwise(self.flops):
            if width <= wide:
                return slow * math.pow(fast / slow, math.log(width / narrow) / math.log(wide / narrow))
        return self.flops[-1][1]


def nominal_speed(threads: int, arrays: float = 1.0) -> Speed:
    """Return what the reference machine would do, for machines where no engine can be measured.

    Args:
        threads: of the run.
        arrays: measured speed of numpy.
    """
    flops = tuple((width, rate * threads * arrays) for width, rate in NOMINAL_FLOPS)
    return Speed(flops=flops, arrays=arrays, measured=False)
