"""The chart of a learning curve: all its points, well-formed, inside of the drawing."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from cnn_tl.pages.charts.learning_curve import Mark, learning_curve_chart

MEASURED = [Mark(6, 0.7, 0.62, 0.77), Mark(112, 0.93, 0.9, 0.96), Mark(225, 0.95, 0.92, 0.97)]
FORETOLD = [Mark(450, 0.96, 0.93, 0.98), Mark(900, 0.97, 0.93, 0.99)]


@pytest.mark.parametrize(("measured", "foretold"), [(MEASURED, FORETOLD), (MEASURED, []), (MEASURED[:1], [])])
def test_all_points_lie_inside(measured: list[Mark], foretold: list[Mark]) -> None:
    svg = ElementTree.fromstring(learning_curve_chart(measured, foretold))
    _, _, width, height = (float(side) for side in svg.attrib["viewBox"].split())
    points = [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in svg.iter("circle")]
    assert len(points) == len(measured) + len(foretold)
    assert points == sorted(points)
    assert all(0 < x < width and 0 < y < height for x, y in points)


def test_it_says_in_words_what_it_shows() -> None:
    chart = str(learning_curve_chart(MEASURED, FORETOLD))
    assert "Accuracy from 70.0% with 6 images to 95.0% with 225, foretold 97.0% with 900" in chart
    assert "450 images: 96.0% (93.0% to 98.0%)" in chart


def test_labels_of_images_do_not_touch() -> None:
    many = [Mark(1_000 + 10 * step, 0.9, 0.89, 0.91) for step in range(8)]
    places = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="222"', str(learning_curve_chart(many, [])))]
    assert all(abs(one - other) >= 34 for one, other in pairwise(places))
