"""What became of verdicts, in words."""

from __future__ import annotations

import pytest

from cnn_tl.metrics.selective import Abstention, UnknownCheck
from cnn_tl.reporting.abstention_rows import abstention_rows


@pytest.mark.parametrize(("distance", "said"), [(0.9, "the same"), (None, "how well it tells them apart")])
def test_the_meaning_of_auroc_is_said_where_it_is_first_met(distance: float | None, said: str) -> None:
    check = UnknownCheck(
        folder="others",
        images=4,
        unreadable=0,
        called_unknown=None,
        answered=1.0,
        auroc_of_distance=distance,
        auroc_of_probability=0.6,
        auroc_of_both=distance,
    )
    found = Abstention(
        risk=(),
        aurc=0.0,
        excess_aurc=0.0,
        called_unknown=None,
        unknown_share=None,
        promise=None,
        sets=None,
        unknown=check,
    )
    rows = {name: (value, meaning) for name, value, meaning in abstention_rows(found)}
    assert ("AUROC, both" in rows) == (distance is not None)
    value, meaning = rows["AUROC, probability"]
    assert value == "0.600"
    assert meaning.startswith(said)
