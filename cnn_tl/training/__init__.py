"""From a recipe to a run folder with a trained model in it.

`run.py` has a run from start to end. A run works with three objects: the frozen `Run` (`context.py`), the `Dataset`
(`dataset.py`) and the network, built when first needed (`lazy_network.py`). What it does is in one file of `modes/`;
what comes out is an `Outcome` (`outcome.py`), from which `result.py` and `save_model.py` write the result and the
bundle.

Networks are built in `networks/`, heads are fitted in `heads/`, features are computed in `features/`; predicting with a
trained model is in `inference/`.
"""
