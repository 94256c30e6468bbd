"""`cnn-tl convolve`: an image before and after convolution with a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import printable

if TYPE_CHECKING:
    from cnn_tl.anatomy.kernels import Convolved, Kernel

Padding = Literal["zeros", "reflect", "replicate", "none"]


def convolve(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image.")],
    kernel: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="sobel (the magnitude of sobel-x and sobel-y), sobel-x, sobel-y, outline, blur, sharpen, emboss; or a "
            "file with one row of numbers per line.",
        ),
    ] = "sobel",
    padding: Annotated[
        Padding, typer.Option(help="How to pad the image, so that stride 1 keeps its size; or not at all.")
    ] = "zeros",
    stride: Annotated[int, typer.Option(min=1, help="Step of the kernel in pixels.")] = 1,
    output: Annotated[
        Path | None, typer.Option(metavar="PNG", help="File for the plot.", show_default="IMAGE-KERNEL.png, here")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the sizes and the range of the sums as JSON.")] = False,
) -> None:
    """Convolve an image with a kernel; draw the image before and after, and the kernel.

    At each position, the products of pixels and kernel entries are summed: cross-correlation, which deep learning calls
    convolution (the kernel is not flipped). A kernel whose entries sum to 0 finds edges and is applied to the grey
    image, any other to each colour channel.
    """
    from cnn_tl.anatomy import kernels
    from cnn_tl.data.decoding.image import read_image
    from cnn_tl.inference.safe_output import require_plot_place
    from cnn_tl.plots.kernels import plot_kernels

    chosen = kernels.find(kernel)
    target = output or Path(f"{image.stem}-{Path(chosen.name).stem}.png")
    require_plot_place(target)
    found = kernels.convolve(read_image(image), chosen, padding, stride)
    lines = [*(f"{side} {formula}" for side, formula in _arithmetic(found).items()), found.how]
    plot_kernels(target, found.before, found.shown, chosen.matrices, chosen.name, lines)
    if json:
        arguments = {"padding": padding, "stride": stride, "output": str(target)}
        console.print_json(_as_json(found, chosen) | arguments)
    else:
        window = f"{found.rows.kernel} x {found.columns.kernel}, stride {stride}, padding {padding}"
        _show(found, image, f"{printable(chosen.name)}, {window}", target)


def _arithmetic(found: Convolved) -> dict[str, str]:
    """Return how each side of the output is computed."""
    return {"height": found.rows.formula, "width": found.columns.formula}


def _as_json(found: Convolved, kernel: Kernel) -> dict[str, object]:
    return {
        "kernel": kernel.name,
        "matrices": [matrix.tolist() for matrix in kernel.matrices],
        "before": list(found.before.shape),
        "after": list(found.after.shape),
        "arithmetic": _arithmetic(found),
        "range": [float(found.after.min()), float(found.after.max())],
        "shown": found.how,
    }


def _show(found: Convolved, image: Path, kernel: str, target: Path) -> None:
    rows = [
        ["image", f"{printable(image)}, {found.rows.size} x {found.columns.size} (height x width)"],
        ["kernel", kernel],
        *([side, formula] for side, formula in _arithmetic(found).items()),
        ["sums", f"{found.after.min():,.5g} to {found.after.max():,.5g}"],
        ["shown", found.how],
        ["output", printable(target)],
    ]
    console.show(console.table(["convolution", ""], rows))
