"""A study's folder with MLflow's tables in it."""

import shutil

import pytest

from harness.records.study_folder import StudyFolder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables, which take seconds to create."""
    from harness.records.mlflow_database import create_tables

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_tables(path)
    return path


@pytest.fixture
def folder(tmp_path, empty_database):
    folder = StudyFolder(tmp_path / "s")
    folder.path.mkdir()
    shutil.copy(empty_database, folder.path / "mlflow.db")
    return folder
