"""To the Hugging Face Hub: a repo and one commit, or one of our errors that says the fix."""

from collections.abc import Mapping

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub import errors as hf
from huggingface_hub.utils import httpx

from ..errors import WeightsUnavailableError
from .files import CARD
from .load import HUB_FAILURES, endpoint, first_line, no_network


def push(
    files: Mapping[str, bytes],
    repo_id: str,
    *,
    commit_message: str,
    token: str | bool | None = None,
    private: bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
) -> CommitInfo:
    """Create the repo if there is none and write ``files`` in one commit, weights and config together.

    Raises:
        WeightsUnavailableError: offline, no token, no right to write, or a card that the Hub refuses.
    """
    api = HfApi(endpoint=endpoint(), token=token)
    if reason := no_network(None):
        raise WeightsUnavailableError(f"cannot push to {repo_id}: {reason}.")
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if branch is not None and branch != "main":
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
        )
    except hf.HFValidationError as error:
        raise WeightsUnavailableError(f"expected a repo id like 'user/name', got {repo_id!r}.") from error
    except HUB_FAILURES as error:
        if isinstance(error, httpx.TransportError):
            raise WeightsUnavailableError(f"cannot push to {repo_id}: {no_network(error)}.") from error
        if str(error).startswith("Invalid metadata"):
            reason = " ".join(str(error).split()).rstrip(".")
            fix = f"Correct {CARD}, which push_to_hub writes from model_card_kwargs=."
            raise WeightsUnavailableError(f"{endpoint()} refuses the card: {reason}. {fix}") from error
        raise WeightsUnavailableError(
            f"pushing to {repo_id} at {endpoint()} failed: {first_line(error)} Pass token= with write access or run "
            "`hf auth login`."
        ) from error
