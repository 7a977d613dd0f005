"""A study's folder with MLflow's tables in it."""

import shutil

import pytest

from harness.records.study_folder import StudyFolder


@pytest.fixture
def folder(tmp_path, empty_database):
    folder = StudyFolder(tmp_path / "s")
    folder.path.mkdir()
    shutil.copy(empty_database, folder.path / "mlflow.db")
    return folder
