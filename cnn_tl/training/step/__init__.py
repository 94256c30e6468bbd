"""One training step: views, targets, loss, gradients, optimizer, schedule, precision."""
