"""The backbone of a network as an ONNX graph without weights, which onnxruntime runs on a CPU, without torch.

`trace` makes the graph of any timm model (that needs torch), `session` puts weights into a graph, `shipped` has the
graphs of the default backbones, made by `make`. A graph depends on the architecture and the size of the images, not on
the weights: those stay where they are, in a weights file, in the cache or in a bundle.
"""
