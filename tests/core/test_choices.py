"""The names that a user can choose are those of the tables of functions, and no others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import pytest

from cnn_tl.core import choices
from cnn_tl.explaining.drawing import LAYER_METHODS, OTHER_METHODS
from cnn_tl.explaining.heat_map_drawing import LOGIT_METHODS
from cnn_tl.explaining.options import OPTIONS_OF
from cnn_tl.exporting.export import EXPORTERS
from cnn_tl.heads import HEADS
from cnn_tl.networks.freeze_policies import FREEZE
from cnn_tl.recipe.resolved import HEAD_TYPES
from cnn_tl.tracking import TRACKERS
from cnn_tl.training.run import MODES


@pytest.mark.parametrize(
    ("names", "tables"),
    [
        (choices.Mode, [MODES]),
        (choices.HeadKind, [HEADS, HEAD_TYPES]),
        (choices.FreezePolicy, [FREEZE]),
        (choices.ExportFormat, [EXPORTERS]),
        (choices.ExplainMethod, [[*LAYER_METHODS, *OTHER_METHODS, *LOGIT_METHODS], OPTIONS_OF]),
        (choices.TrackerName, [TRACKERS]),
    ],
    ids=["mode", "head", "freeze", "format", "method", "tracker"],
)
def test_names_are_those_of_the_table(names: Any, tables: list[Iterable[str]]) -> None:
    for table in tables:
        assert set(get_args(names)) == set(table)
