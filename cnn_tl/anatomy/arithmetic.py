"""The arithmetic of convolutions and poolings in plain integers: sizes, receptive fields, parameters, multiply-adds.

Along one side a window of u pixels slides in steps of s over M pixels, with P more on both ends. It has

    (M + 2P - u) / s + 1,  rounded down

positions (Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", relationship 6). With
dilation d the window covers u' = d(u - 1) + 1 pixels (ibid., sec. 5.1), and u' replaces u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Slide:
    """A window that slides along one side of a map.

    Attributes:
        size: length of the side, in pixels (M).
        kernel: length of the window, in pixels, without the gaps of a dilation (u).
        stride: pixels from one position to the next (s).
        before, after: pixels of padding at the two ends (P each, if they are equal).
        dilation: distance between neighbouring pixels of the window; 1 is an ordinary window.
        ceil: also count a last position that extends beyond the end, as in torch's `ceil_mode`.
    """

    size: int
    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil: bool = False

    @property
    def covered(self) -> int:
        """The pixels that the window spans, including gaps (u')."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def fits(self) -> bool:
        """Whether the window is no larger than the padded side."""
        return self.covered <= self.size + self.before + self.after

    @property
    def left_over(self) -> int:
        """Pixels at the end, including padding, that no position reaches because the stride does not divide evenly."""
        return (self.size + self.before + self.after - self.covered) % self.stride

    @property
    def output(self) -> int:
        """The number of positions: the length of this side after the layer."""
        room = self.size + self.before + self.after - self.covered
        if not self.ceil:
            return room // self.stride + 1
        positions = -(-room // self.stride) + 1
        inside = (positions - 1) * self.stride < self.size + self.before  # the last must not start in the padding
        return positions if inside else positions - 1

    @property
    def formula(self) -> str:
        """The formula with its numbers, such as `(32 + 2*2 - 5)/1 + 1 = 32`."""
        both = f" + 2*{self.before}" if self.before else ""
        padding = both if self.before == self.after else f" + {self.before} + {self.after}"
        division = f"({self.size}{padding} - {self.covered})/{self.stride}"
        if self.left_over:
            division = f"{'ceil' if self.ceil else 'floor'}({division})"
        return f"{division} + 1 = {self.output}"


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Return TensorFlow's padding "SAME", before and after: the output has ceil(M / s); an odd pixel goes to the end.

    See the notes on padding in TensorFlow's documentation of `tf.nn`.
    """
    covered = dilation * (kernel - 1) + 1
    total = max((math.ceil(size / stride) - 1) * stride + covered - size, 0)
    return total // 2, total - total // 2


def grow(field: float, jump: float, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[float, float]:
    """Return receptive field and jump after one more layer: r + d(u - 1)j, and j * s.

    The receptive field r is the side of the region that one unit sees of the image; the jump j is the distance between
    the regions of neighbouring units. Both are in pixels (Araujo et al. 2019, "Computing receptive fields of
    convolutional neural networks", sec. 2).
    """
    return field + dilation * (kernel - 1) * jump, jump * stride


def convolution_parameters(
    channels: int, filters: int, kernel: tuple[int, int], groups: int = 1, bias: bool = True
) -> int:
    """Return the number of parameters of a convolution: u*u*C/groups weights for each filter, and perhaps a bias."""
    return filters * (kernel[0] * kernel[1] * (channels // groups) + bias)


def convolution_multiply_adds(outputs: int, channels: int, kernel: tuple[int, int], groups: int = 1) -> int:
    """Return the multiply-adds of a convolution: u*u*C/groups for each of its `outputs` numbers, without the bias."""
    return outputs * kernel[0] * kernel[1] * (channels // groups)


def linear_parameters(inputs: int, outputs: int, bias: bool = True) -> int:
    """Return the number of parameters of a fully connected layer."""
    return outputs * (inputs + bias)
