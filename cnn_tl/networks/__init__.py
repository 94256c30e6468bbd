"""Networks: any timm model with its pretrained weights, what is frozen in it, and the bundle of a trained one.

`backbone` builds one, `freeze` decides what trains, `split_point` splits it where the frozen part ends, `info`
remembers what is known of it without building it. Training loops live in `training/`, heads that are fitted without a
loop in `heads/`, and layer-by-layer tables in `anatomy/`.
"""
