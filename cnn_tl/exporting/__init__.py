"""Exporting a trained model to other programs' formats, with a proof that the export is the same model.

Start at `export`: it writes a format (formats/), compares it with the model that predict runs (`original`, `parity`)
and, in a lower precision, measures the cost (`precision_cost`). Running an exported ONNX file belongs to
networks/onnx_model and inference/.
"""
