"""A folder → a repository on the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from isthmus.errors import UserError


def upload_folder(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Make a repository where there is none, and put every file of a folder into it in one commit.

    Returns its address. Raises `UserError` where the Hub cannot be reached, knows nobody, or refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message=message))
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as problem:
        raise UserError(
            f"nothing was uploaded to {repository} ({str(problem).strip().splitlines()[0]}); log in with "
            "`hf auth login`, and check the name and the connection"
        ) from problem
