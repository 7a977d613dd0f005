"""Uploading a published form to the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from harness.errors import UserError


def push(folder: Path, repository: str, private: bool = True) -> str:
    """Upload a folder as the content of a model repository, which is made if there is none; returns its address.

    The token is the one of `hf auth login`, or HF_TOKEN; it is neither shown nor stored.

    Raises:
        UserError: what the hub said.
    """
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        said = api.upload_folder(
            repo_id=repository, repo_type="model", folder_path=folder, commit_message="Published by whisper-sweep"
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the hub did not take {repository!r}: {first}; log in with hf auth login") from None
    return str(said)
