"""A language model shared out over two real processes, spawned once for every check, and what cannot be shared out."""

import pytest
import torch
from torch import multiprocessing, nn

import decoders
from isthmus.errors import ConfigError
from isthmus.language import sharing
from sharing_ranks import WORLD, check_everything


def test_two_processes(tmp_path):
    multiprocessing.spawn(check_everything, (str(tmp_path / "meeting"),), nprocs=WORLD)


def test_a_model_of_no_known_layers_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(sharing, "init_device_mesh", lambda *_: None)
    tower = decoders.llm()
    tower.model = nn.Linear(2, 2)
    with pytest.raises(
        ConfigError, match=r"no layers of folder:llama that could be shared out: leave out llm\.sharded"
    ):
        tower.share(torch.device("cpu"))
