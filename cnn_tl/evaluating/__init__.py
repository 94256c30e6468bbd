"""Measuring a trained model on labelled images, its robustness to changed images, and the speed of this machine.

Not here: the validation that runs during training (training/loop/) and the comparison of an export with its model
(exporting/parity). Predictions come from inference/, so that evaluate measures exactly what predict answers.
"""
