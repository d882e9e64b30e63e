from pathlib import Path

import pytest
import torch

from tests.golden.deterministic import vgg_state_dict


@pytest.fixture(scope="session")
def vgg19(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a file with golden weights of VGG19 up to relu5_1."""
    file: Path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(vgg_state_dict("vgg19", 30), file)
    return str(file)
