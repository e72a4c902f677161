import os
import warnings

import pytest

from cifar_mlflow import console


def test_this_process_and_those_it_starts_show_no_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        console.quieten()
        warnings.warn("a worker stopped", stacklevel=1)
    assert shown == []
    assert os.environ["PYTHONWARNINGS"] == "ignore"
