from __future__ import annotations

from cnn_tl.data.data_warnings import blank_image_remarks


def test_the_remarks_name_some_in_natural_order() -> None:
    blank = [*((f"{number}.png", "constant") for number in reversed(range(1, 12))), ("dark.tif", "narrow")]
    assert blank_image_remarks(blank) == [
        "images of one colour all over: 11 (1.png, 2.png, 3.png, 4.png, 5.png and 6 more)",
        "images whose values lie within 1/16 of the range, so that they show almost nothing: 1 (dark.tif)",
    ]
