"""What the fork server of `warm.py` loads once: all that a run needs but the command line, which reads the screen."""

from cnn_tl.core import imports, telemetry
from cnn_tl.plots import load_matplotlib

telemetry.forbid_telemetry()
imports.import_timm()
load_matplotlib.load_matplotlib()

import matplotlib.backends.backend_agg  # noqa: E402, F401
import safetensors.torch  # noqa: E402, F401

import cnn_tl.data.loader  # noqa: E402
import cnn_tl.heads  # noqa: E402
import cnn_tl.training.modes.finetune  # noqa: E402
import cnn_tl.training.modes.freeze  # noqa: E402
import cnn_tl.training.run  # noqa: E402, F401
from cnn_tl.training import estimate  # noqa: E402

estimate.MEASURED_SECONDS = 0.0  # as in the tests' own process
