"""An exported model on a hub of models, such as huggingface.co: whoever asks for it, and with a token alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctwa.errors import CtwaError


@dataclass(frozen=True)
class Destination:
    """A model's place on a hub, which there is a token for.

    Attributes:
        repo: ``owner/name``.
        private: whether nobody else sees it, where it is made anew; one that is there stays as it is.
    """

    repo: str
    private: bool = True

    @classmethod
    def check(cls, repo: str, *, private: bool = True) -> Destination:
        """See what can be seen without asking the hub: before an export costs minutes.

        Raises:
            CtwaError: the name is none, the hub is not to be asked, or there is no token.
        """
        from huggingface_hub import constants, get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        try:
            validate_repo_id(repo)
            is_name = repo.count("/") == 1
        except HFValidationError:
            is_name = False
        if not is_name:
            raise CtwaError(f"--push {repo} is no name on a hub: write owner/name, e.g. --push me/my-model")
        if constants.HF_HUB_OFFLINE:
            raise CtwaError(f"--push {repo}: HF_HUB_OFFLINE is set, so no hub is asked: unset it, or leave --push out")
        if get_token() is None:
            raise CtwaError(
                f"--push {repo}: there is no token of the hub: write it to the variable HF_TOKEN, or run `hf auth "
                "login`"
            )
        return cls(repo, private)

    @property
    def address(self) -> str:
        """Where it is."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repo}"

    def push(self, folder: Path) -> str:
        """Put a folder's files there, in one commit.

        Returns:
            The address of the commit.

        Raises:
            CtwaError: the hub does not answer, or refuses.
        """
        from huggingface_hub import HfApi, get_token

        api = HfApi()
        try:
            api.create_repo(self.repo, private=self.private, exist_ok=True)
            commit = api.upload_folder(repo_id=self.repo, folder_path=folder, commit_message="A model made with ctwa")
        except Exception as error:  # whatever the hub's client and its HTTP client raise
            why = " ".join(str(error).split()).replace(get_token() or "\0", "***")[:300]
            raise CtwaError(
                f"--push: {self.address} did not take the model ({type(error).__name__}: {why}); it is in {folder}, "
                f"and `hf upload {self.repo} {folder}` tries again"
            ) from error
        return str(commit.commit_url)
