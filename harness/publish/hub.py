"""Upload a published form to the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from harness.errors import UserError


def push(folder: Path, repository: str, private: bool = True) -> str:
    """Upload a folder as the content of a model repository, which is created if it does not exist.

    The token is that of `hf auth login`, or HF_TOKEN; it is neither shown nor stored.

    Returns:
        The address of the upload.

    Raises:
        UserError: The upload failed; the message quotes the hub's.
    """
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        address = api.upload_folder(
            repo_id=repository, repo_type="model", folder_path=folder, commit_message="Published by whisper-sweep"
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the upload to {repository!r} failed: {reason}; log in with hf auth login") from None
    return str(address)
