"""Images in, predictions out: a trained model from a run folder, a bundle or a .onnx file. No labels, no files written."""
