"""A network of the zoo as the object that `diagnose` takes for ``model``."""

from types import SimpleNamespace


def as_model(net):
    return SimpleNamespace(sizes=net.sizes, activation=net.hidden, output_activation=net.output, loss=net.loss,
                           reduction=net.reduction, clip=net.clip, dtype=net.dtype, layout=net.layout)
