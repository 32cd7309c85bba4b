"""Networks of the paper, by shape only, and one thread for everything here."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def resnet50():
    import timm

    with torch.device("meta"):
        return timm.create_model("resnet50")


@pytest.fixture(scope="session")
def wrn_22_2():
    from rigl_lightning.models import WideResNet

    with torch.device("meta"):
        return WideResNet(depth=22, width=2)
