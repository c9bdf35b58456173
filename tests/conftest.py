"""What every test may count on: one thread a process, and the digits data set."""

import pytest
import torch

from hypernas.data import Dataset, load_dataset

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")
