"""Upload of packages to the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from memo_lightning.errors import UserError, require
from memo_lightning.policies.hub import import_hub
from memo_lightning.policies.package import CARD, MANIFEST, check_package, is_package
from memo_lightning.wording import one_line


def push_package(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a package as the newest revision of a repository, which is created if there is none.

    Args:
        folder: folder of the package.
        repo: name of the repository, ``OWNER/NAME``.
        private: whether a repository that is created is private.

    Returns:
        The URL of the revision.

    Raises:
        UserError: if it is not a package or was changed, or the Hub refuses it or cannot be reached.
    """
    fits = re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII) is not None
    require(fits, "repo", repo, "OWNER/NAME on the Hugging Face Hub")
    if not is_package(folder):
        raise UserError(
            f"{folder}: not a package (no {MANIFEST}); make one with memo package checkpoint=runs/NAME out={folder}"
        )
    files = check_package(folder)
    hub = import_hub("memo push")
    card = (folder / CARD).read_text(encoding="utf-8")
    try:
        client = hub.HfApi(library_name="memo-lightning")
        client.create_repo(repo, private=private, exist_ok=True)
        # In the uploaded card, the example names the repository.
        client.upload_file(
            path_or_fileobj=card.replace("hf:OWNER/NAME", f"hf:{repo}").encode(), path_in_repo=CARD, repo_id=repo
        )
        others = [name for name in files if name != CARD]
        done = client.upload_folder(
            folder_path=folder, repo_id=repo, allow_patterns=others, commit_message="Upload a memo-lightning package"
        )
    except Exception as error:  # from the Hub's client or its dependencies
        raise UserError(
            f"repo={repo}: cannot be uploaded to the Hugging Face Hub ({one_line(error)}); needs a token with "
            f"write access: hf auth login, or HF_TOKEN"
        ) from None
    return str(getattr(done, "commit_url", done))
