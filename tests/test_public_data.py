from pathlib import Path

import pytest

from cifar_mlflow.data.user_data import read_user_data
from tests.conftest import Screen
from tools import public_data


def test_digits_are_written_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["public_data", "digits", str(tmp_path / "digits.npz")])
    public_data.main()
    counts = read_user_data(tmp_path / "digits.npz", 16).class_counts()
    assert counts.sum().sum() == 1797


def test_photos_are_written_with_odd_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, screen: Screen
) -> None:
    monkeypatch.setattr(public_data, "OF_EACH", 3)
    monkeypatch.setattr("sys.argv", ["public_data", "digits", str(tmp_path / "photos")])
    public_data.main()
    shown = screen()
    counts = read_user_data(tmp_path / "photos", 16).class_counts()
    assert counts.sum(axis=1).tolist() == [5] + [3] * 9  # with the CMYK and the animated image
    assert "Skipped   2 of 34 images, which cannot be read" in shown.getvalue()
