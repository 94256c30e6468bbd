"""Assemble an exported ONNX graph: preprocessing, normalisation, the network, probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import compose, helper, parser

from cnn_tl.abstention.distance import FeatureDistance
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.exporting.distance_graph import add_distance
from cnn_tl.exporting.preprocessing_graph import CROPPED, preparing_graph
from cnn_tl.networks.onnx_model import DISTANCE, IMAGES, INPUT, LOGITS, PREPARED, PROBABILITIES


def from_pixels(network: onnx.ModelProto, spec: Preprocessing) -> onnx.ModelProto:
    """Return the network with its preprocessing: it takes whole images, uint8 [N, H, W, 3] of any size.

    The second input, the bool `prepared`, is optional: true means that the images are resized and cropped already.

    Args:
        network: takes `input`, normalised float32 [N, 3, height, width].

    Raises:
        UsageError: ONNX cannot resize as the preprocessing does.
    """
    opset, ir_version = _opset(network), network.ir_version
    prepare = preparing_graph(spec, opset=opset, ir_version=ir_version)
    front = parser.parse_model(_front(spec, opset, ir_version))
    choice = next(node for node in front.graph.node if node.op_type == "If")
    branches = {"then_branch": _unchanged(spec), "else_branch": _branch(prepare.graph)}
    choice.attribute.extend(helper.make_attribute(name, graph) for name, graph in branches.items())
    front.graph.initializer.append(helper.make_tensor(PREPARED, onnx.TensorProto.BOOL, [], [False]))
    return compose.merge_models(front, network, io_map=[("front_x", INPUT)])


def with_outputs(
    network: onnx.ModelProto, outputs: Sequence[str], distance: FeatureDistance | None = None
) -> onnx.ModelProto:
    """Return the network with these outputs in this order; without one for `distance` if that is not known.

    Args:
        network: returns `logits` and, if asked for, `features`.
        distance: measures that of features.

    Raises:
        ArtefactError: the network has another number of features than `distance`.
    """
    graph = network.graph
    if DISTANCE in outputs and distance is not None:
        add_distance(network, distance)
    if PROBABILITIES in outputs:
        graph.node.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], name="softmax", axis=1))
        [logits] = (one for one in graph.output if one.name == LOGITS)
        probabilities = graph.output.add()
        probabilities.CopyFrom(logits)
        probabilities.name = PROBABILITIES
    by_name = {one.name: one for one in graph.output}
    del graph.output[:]
    graph.output.extend(by_name[name] for name in outputs if name != DISTANCE or name in by_name)
    return network


def _front(spec: Preprocessing, opset: int, ir_version: int) -> str:
    """Return the graph from images to normalised ones; the two branches of its If are still empty.

    Its names must differ from those of the network.
    """
    mean, std = (", ".join(f"{number!r}" for number in numbers) for numbers in (spec.mean, spec.std))
    return f"""
        <ir_version: {ir_version}, opset_import: ["" : {opset}]>
        front (uint8[batch, H, W, 3] {IMAGES}, bool {PREPARED})
            => (float[batch, 3, {spec.height}, {spec.width}] front_x)
        {{
            {CROPPED} = If ({PREPARED})
            front_white = Constant <value = float {{255.0}}> ()
            front_mean = Constant <value = float[3] {{{mean}}}> ()
            front_std = Constant <value = float[3] {{{std}}}> ()
            front_values = Cast <to = 1> ({CROPPED})
            front_shares = Div (front_values, front_white)
            front_centred = Sub (front_shares, front_mean)
            front_normalised = Div (front_centred, front_std)
            front_x = Transpose <perm = [0, 3, 1, 2]> (front_normalised)
        }}"""


def _unchanged(spec: Preprocessing) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("as_it_is", onnx.TensorProto.UINT8, ["batch", spec.height, spec.width, 3])
    return helper.make_graph([helper.make_node("Identity", [IMAGES], ["as_it_is"])], "prepared_outside", [], [output])


def _branch(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Return the graph as a branch, which reads the images of the enclosing graph, with names of its own."""
    names = {name: f"prepare/{name}" for node in graph.node for name in node.output}
    for node in graph.node:
        for names_of_node in (node.input, node.output):
            names_of_node[:] = [names.get(name, name) for name in names_of_node]
    [output] = graph.output
    output.name = names[output.name]
    return helper.make_graph(list(graph.node), "prepared_inside", [], [output])


def _opset(model: onnx.ModelProto) -> int:
    return int(next(entry.version for entry in model.opset_import if not entry.domain))
