"""`cnn-tl convolve`: an image before and after convolution with a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import printable

Padding = Literal["zeros", "reflect", "replicate", "none"]


def convolve(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image.")],
    kernel: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="sobel (the length of sobel-x and sobel-y), sobel-x, sobel-y, outline, blur, sharpen, emboss; or a "
            "file with one row of numbers a line.",
        ),
    ] = "sobel",
    padding: Annotated[
        Padding, typer.Option(help="How to pad the image, so that stride 1 keeps its size; or none.")
    ] = "zeros",
    stride: Annotated[int, typer.Option(min=1, help="Step of the kernel in pixels.")] = 1,
    output: Annotated[
        Path | None, typer.Option(metavar="PNG", help="File for the plot.", show_default="IMAGE-KERNEL.png, here")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the sizes and the range of the sums as JSON.")] = False,
) -> None:
    """Slide a kernel over an image; draw the image before and after, and the kernel.

    At each place the products of pixels and entries are added up: cross-correlation, which networks call convolution
    (the kernel is not turned). A kernel whose entries add up to 0 finds edges and sees the image in grey, any other
    works on each colour by itself.
    """
    from cnn_tl.anatomy import kernels
    from cnn_tl.data.decoding.image import read_image
    from cnn_tl.inference.safe_output import require_plot_place
    from cnn_tl.plots.kernels import plot_kernels

    chosen = kernels.find(kernel)
    target = output or Path(f"{image.stem}-{Path(chosen.name).stem}.png")
    require_plot_place(target)
    found = kernels.convolve(read_image(image), chosen, padding, stride)
    rows, columns = found.rows, found.columns
    sizes = {"height": rows.formula, "width": columns.formula}
    lines = [*(f"{name} {formula}" for name, formula in sizes.items()), found.how]
    plot_kernels(target, found.before, found.shown, chosen.matrices, chosen.name, lines)
    if json:
        console.print_json(
            {
                "kernel": chosen.name,
                "matrices": [matrix.tolist() for matrix in chosen.matrices],
                "padding": padding,
                "stride": stride,
                "before": list(found.before.shape),
                "after": list(found.after.shape),
                "arithmetic": sizes,
                "range": [float(found.after.min()), float(found.after.max())],
                "shown": found.how,
                "output": str(target),
            }
        )
        return
    low, high = float(found.after.min()), float(found.after.max())
    facts = [
        ["image", f"{printable(image)}, {rows.size} x {columns.size} (height x width)"],
        ["kernel", f"{printable(chosen.name)}, {rows.kernel} x {columns.kernel}, stride {stride}, padding {padding}"],
        *([name, formula] for name, formula in sizes.items()),
        ["sums", f"{low:,.5g} to {high:,.5g}"],
        ["shown", found.how],
        ["output", printable(target)],
    ]
    console.show(console.table(["convolution", ""], facts))
