"""What a model's answers to labelled images amount to: figures, calibration, comparisons. Arrays in, numbers out.

Not here: images, models and files (evaluating/ and training/ make the answers), and drawing (pages/, plots/).
"""
