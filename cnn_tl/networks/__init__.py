"""Networks: any timm model with its weights, what is frozen in it, and the bundle it is kept in."""
