"""The widths of Small-Dense that the protocols hold are the largest with as many weights as the sparse network."""

import pytest

from paper.protocols import PROTOCOLS
from paper.studies.protocol_widths import small_dense_width
from rigl_lightning.models import LeNet300100
from rigl_lightning.sparsity.costs.widths import count_parameters, largest_width, of_network


@pytest.mark.parametrize("benchmark", ["imagenet_resnet50", "imagenet_mobilenet_v1", "imagenet_mobilenet_v2"])
def test_small_dense_has_as_many_weights_as_the_sparse_network(benchmark):
    protocol = PROTOCOLS["small"][benchmark]
    assert set(protocol.widths) == set(protocol.sparsities)
    assert small_dense_width(protocol, 0.95) == protocol.widths[0.95]


def test_lenets_width_is_the_largest_with_a_hundredth_of_the_weights():
    def build(width):
        return LeNet300100(width=width)

    n_weights = sum(p.numel() for name, p in build(1.0).named_parameters() if name.endswith("weight"))
    found = largest_width(of_network(build, count_parameters), 0.01 * n_weights, lowest=0.01)
    assert PROTOCOLS["small"]["mnist_lenet"].widths[0.99] == found.width
