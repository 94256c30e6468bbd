"""Images in, predictions out: a trained model from a run folder, a bundle or a .onnx file. Writes no files."""
