"""Open, lock and retry the database of a study: a SQLite file, or a PostgreSQL server."""

import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock
from sqlalchemy.exc import SQLAlchemyError

from harness.errors import DISK_FULL, UserError, is_disk_full
from harness.records.files import sqlite_url

P = ParamSpec("P")
T = TypeVar("T")

SQLITE_TIMEOUT = 60  # seconds; with SQLite's default of 5, a tell is lost while another program locks the database
MAX_UNAVAILABLE_SECONDS = 600.0
RETRY_SECONDS = 1.0
# Calls that may be repeated: each sets or reads a value. A trial that was created twice is ended as a dead trial.
REPEATABLE = (
    "create_new_trial", "set_study_user_attr", "set_study_system_attr", "set_trial_param", "set_trial_state_values",
    "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr", "get_trial", "get_all_trials",
    "_get_trials", "get_study_user_attrs", "get_study_system_attrs", "get_study_directions", "get_best_trial",
    "get_trial_id_from_study_id_trial_number", "get_study_id_from_name", "record_heartbeat",
    "_create_new_trial", "_set_trial_param", "_get_best_trial_id",  # by which Optuna's own cache calls them
)  # fmt: skip


def retry_while_unavailable(call: Callable[P, T]) -> Callable[P, T]:
    """Repeat a database call while the database is locked or unavailable; a full disk is an error of the user."""

    @functools.wraps(call)
    def repeated(*arguments: P.args, **named: P.kwargs) -> T:
        end = time.monotonic() + MAX_UNAVAILABLE_SECONDS
        while True:
            try:
                return call(*arguments, **named)
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                reason = str(error.__cause__ or error).splitlines()[0]
                if is_disk_full(error):
                    raise UserError(DISK_FULL) from None
                if time.monotonic() > end:
                    minutes = f"{MAX_UNAVAILABLE_SECONDS / 60:.0f} minutes"
                    raise UserError(
                        f"the study's database has been unavailable for {minutes} ({reason}); "
                        "run the same command again to resume"
                    ) from None
            time.sleep(RETRY_SECONDS)

    return repeated


class RetryingStorage(optuna.storages.RDBStorage):
    """Optuna's storage, which repeats each call while the database is unavailable, also for samplers and pruners."""


for _name in REPEATABLE:
    setattr(RetryingStorage, _name, retry_while_unavailable(getattr(optuna.storages.RDBStorage, _name)))


class Database:
    """The database of a study: a SQLite file in its folder, or a server that several machines reach."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self._folder, self._url = folder, with_driver(url) if url else None
        address = self._url or sqlite_url(folder / "optuna.db")
        options: dict[str, Any] = {"pool_pre_ping": True} if url else {"connect_args": {"timeout": SQLITE_TIMEOUT}}
        folder.mkdir(parents=True, exist_ok=True)
        # Workers that open a new database at the same time would create its tables twice.
        with FileLock(folder / "databases.lock"):
            self.storage = _open_storage(address, options)

    @contextmanager
    def lock(self, study: str) -> Iterator[None]:
        """Lock a study for one worker on any machine, to claim or end a trial.

        On a server this is a transaction with an advisory lock, which ends with its connection.
        """
        if self._url is None:
            with FileLock(self._folder / "claims.lock"):
                yield
            return
        key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:7], "big")
        connection = self._connect_and_lock(key)
        try:
            yield
        finally:
            with suppress(SQLAlchemyError):  # the server may be gone, and the lock with it
                connection.commit()
            with suppress(SQLAlchemyError):
                connection.close()

    @retry_while_unavailable
    def _connect_and_lock(self, key: int) -> sqlalchemy.Connection:
        connection = self.storage.engine.connect()
        try:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        except BaseException:
            connection.close()
            raise
        return connection

    @retry_while_unavailable
    def heartbeats(self) -> dict[int, str]:
        """Return the last heartbeat of each trial that has one, by trial id."""
        with self.storage.engine.connect() as connection:
            rows = connection.execute(sqlalchemy.text("SELECT trial_id, heartbeat FROM trial_heartbeats"))
            return {trial: str(heartbeat) for trial, heartbeat in rows}

    def heartbeat_ages(self) -> dict[int, float]:
        """Return the seconds since the last heartbeat of each trial that has one, by the database's clock."""
        table = sqlalchemy.table(
            "trial_heartbeats", sqlalchemy.column("trial_id"), sqlalchemy.column("heartbeat", sqlalchemy.DateTime)
        )
        with self.storage.engine.connect() as connection:
            now = connection.execute(sqlalchemy.select(sqlalchemy.func.now())).scalar_one()
            rows = connection.execute(sqlalchemy.select(table)).all()
        return {row.trial_id: (now.replace(tzinfo=None) - row.heartbeat).total_seconds() for row in rows}


def _open_storage(address: str, options: dict[str, Any]) -> RetryingStorage:
    try:
        return RetryingStorage(address, engine_kwargs=options)
    except (SQLAlchemyError, ImportError) as error:
        if is_disk_full(error):
            raise UserError(DISK_FULL) from None
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot open the study's database {without_password(address)}: {reason}") from None


def with_driver(url: str) -> str:
    """Return an address with the installed driver, psycopg.

    Raises:
        UserError: The address is not of PostgreSQL.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() != "postgresql":
        raise UserError(
            f"--storage takes postgresql://USER@HOST/DATABASE, not {without_password(url)}; without it, SQLite is used"
        )
    return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def without_password(url: str) -> str:
    """Return an address without its password, for files and messages."""
    parsed = _parsed(url)
    return parsed.set(
        password=None, query={k: v for k, v in parsed.query.items() if k != "password"}
    ).render_as_string()


def has_password(url: str) -> bool:
    """Whether an address contains a password."""
    parsed = _parsed(url)
    return parsed.password is not None or "password" in parsed.query


def _parsed(url: str) -> sqlalchemy.URL:
    try:
        return sqlalchemy.engine.make_url(url)
    except SQLAlchemyError:
        raise UserError("--storage takes an address such as postgresql://USER@HOST:5432/DATABASE") from None
