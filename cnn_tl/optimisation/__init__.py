"""What a training step is: loss, gradients, optimiser, learning rate, number format, and which part trains when."""
