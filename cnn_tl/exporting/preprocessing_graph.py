"""The preprocessing as an ONNX graph, from whole images to resized and cropped ones.

It follows `data/views/transforms.py` step by step, on uint8. The antialiased Resize of onnxruntime is the algorithm of
Pillow, which rounds after each direction, but in float32 instead of float64. So a value sometimes differs by 1 of 255,
or by 2 where a strip is stretched to a square.

In the text of the graph H and W are the sides of an image, and `hw` is both, int64 [2]. Types are numbers: 2 is uint8,
6 int32, 7 int64, 11 double.
"""

from __future__ import annotations

import onnx
from onnx import parser

from cnn_tl.core.errors import UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views import transforms
from cnn_tl.networks.onnx_model import IMAGES

CROPPED = "cropped"

_RESIZE = {"bicubic": 'mode = "cubic", cubic_coeff_a = -0.5', "bilinear": 'mode = "linear"'}


def preparing_graph(spec: Preprocessing, *, opset: int, ir_version: int) -> onnx.ModelProto:
    """Return the graph that resizes and crops: uint8 [N, H, W, 3] of any size to uint8 [N, height, width, 3].

    Raises:
        UsageError: ONNX cannot resize as the preprocessing does.
    """
    if spec.interpolation not in _RESIZE:
        raise UsageError(
            f"ONNX has no resampling filter like Pillow's {spec.interpolation}; use --preprocess none, and preprocess "
            "the images yourself"
        )
    trim = _TRIM if spec.crop_mode == "center" else "kept = Identity (hw) trimmed = Identity (images)"
    steps = trim + _size(spec) + _resize(spec) + _MIDDLE + (_pad(spec) if spec.crop_mode == "border" else _NO_PAD)
    return parser.parse_model(f"""
        <ir_version: {ir_version}, opset_import: ["" : {opset}]>
        prepare (uint8[batch, H, W, 3] {IMAGES}) => (uint8[batch, {spec.height}, {spec.width}, 3] {CROPPED})
        {{
            axes = {_ints(1, 2)}
            half = Constant <value = double {{0.5}}> ()
            wanted = {_ints(spec.height, spec.width)}
            hw = Shape <start = 1, end = 3> ({IMAGES})
            {steps}
        }}""")


def _ints(*values: int) -> str:
    return f"Constant <value_ints = [{', '.join(map(str, values))}]> ()"


def _half(result: str, of: str) -> str:
    """Return the steps for Python's `round(of / 2)`, which also rounds half to even."""
    return f"""
            {of}_double = Cast <to = 11> ({of})
            {of}_halved = Mul ({of}_double, half)
            {of}_rounded = Round ({of}_halved)
            {result} = Cast <to = 7> ({of}_rounded)"""


_TRIM = f"""
            shortest = ReduceMin (hw)
            strip = {_ints(transforms.LONGEST_STRIP)}
            longest = Mul (shortest, strip)
            kept = Min (hw, longest)
            spare = Sub (hw, kept){_half("first", "spare")}
            last = Add (first, kept)
            trimmed = Slice ({IMAGES}, first, last, axes)"""


def _size(spec: Preprocessing) -> str:
    """Return the steps of `transforms.resized`: the size of an image of size `kept` before the crop."""
    height, width = spec.resized
    if spec.crop_mode == "squash":
        return f"""
            resized = {_ints(height, width)}"""
    if spec.crop_mode == "center" and height == width:
        return f"""
            target = {_ints(height)}
            scaled_up = Mul (kept, target)
            short = ReduceMin (kept)
            resized = Div (scaled_up, short)"""
    return f"""
            one = {_ints(1)}
            targets = {_ints(height, width)}
            targets_double = Cast <to = 11> (targets)
            kept_double = Cast <to = 11> (kept)
            ratios = Div (kept_double, targets_double)
            ratio = {"ReduceMax" if spec.crop_mode == "border" else "ReduceMin"} (ratios)
            exact = Div (kept_double, ratio)
            exact_rounded = Round (exact)
            exact_sides = Cast <to = 7> (exact_rounded)
            resized = Max (exact_sides, one)"""


def _resize(spec: Preprocessing) -> str:
    return f"""
            number = Shape <start = 0, end = 1> ({IMAGES})
            channels = {_ints(3)}
            shape = Concat <axis = 0> (number, resized, channels)
            image = Resize <{_RESIZE[spec.interpolation]}, antialias = 1, exclude_outside = 1> (trimmed, , , shape)"""


_MIDDLE = f"""
            none = {_ints(0, 0)}
            difference = Sub (resized, wanted)
            over = Max (difference, none){_half("top_left", "over")}
            bottom_right = Add (top_left, wanted)
            middle = Slice (image, top_left, bottom_right, axes)"""

_NO_PAD = f"""
            {CROPPED} = Identity (middle)"""


def _pad(spec: Preprocessing) -> str:
    """Return the steps that pad with the mean colour: ONNX pads with one number, so the colour is added afterwards."""
    return f"""
            zero = {_ints(0)}
            two = {_ints(2)}
            shortfall = Sub (wanted, resized)
            lack = Max (shortfall, none)
            before = Div (lack, two)
            after = Sub (lack, before)
            pads = Concat <axis = 0> (zero, before, zero, zero, after, zero)
            colour = Constant <value = int32[3] {{{", ".join(map(str, transforms.mean_colour(spec)))}}}> ()
            middle_int = Cast <to = 6> (middle)
            relative = Sub (middle_int, colour)
            padded = Pad (relative, pads)
            coloured = Add (padded, colour)
            {CROPPED} = Cast <to = 2> (coloured)"""
