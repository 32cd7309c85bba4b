import pytest
import torch


@pytest.fixture(autouse=True)
def _same_numbers_and_threads():
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
