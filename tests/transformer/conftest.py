"""Trainings that end where a kill would end them."""

import shutil
from pathlib import Path

import pytest
import torch


class Killed(BaseException):
    """Stands for a kill: nobody catches it."""


@pytest.fixture
def killed_while_writing(monkeypatch):
    """`killed_while_writing("checkpoint-4", train)`: a run that ends between two files of a checkpoint.

    What the run would tidy up at an error stays, as after a kill.
    """

    def call(checkpoint, train):
        save = torch.save

        def saving(value, path, *arguments, **options):
            if str(path).endswith(f"{checkpoint}/optimizer.pt"):
                Path(path).write_bytes(b"half")
                raise Killed
            save(value, path, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", saving)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                train()

    return call
