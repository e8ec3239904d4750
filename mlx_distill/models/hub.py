"""Locating a model: a local folder, or a repository of the Hugging Face hub, from its cache or from the network.

It knows names and places; nothing of what a checkpoint contains beyond the files to fetch.
"""

from __future__ import annotations

import re
from pathlib import Path

from mlx_distill.errors import CheckpointError
from mlx_distill.models.checkpoint import KEPT, TERMS
from mlx_distill.models.license import CARD

WEIGHTS = ("config.json", "model*.safetensors", "model.safetensors.index.json")
NEEDED = (*WEIGHTS, "tokenizer*")
"""Without these a snapshot in the cache does not serve; licence texts and the like may be absent."""
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
LIKE = "a hub id looks like Qwen/Qwen2.5-1.5B-Instruct"
PATIENCE = 5.0
"""Seconds to wait for the hub's answer."""


def locate(model: str, revision: str | None = None, *, relative_to: Path | None = None) -> Path:
    """The folder of a checkpoint. A folder beats a hub id of the same name; a relative one starts at `relative_to`.

    Raises CheckpointError where there is neither, or where the hub cannot be reached and its cache has not got it.
    """
    folder = _folder(model, relative_to)
    if folder is not None and folder.is_dir():
        if revision is not None:
            hint = "leave out base.revision, or remove the folder to use the hub"
            raise CheckpointError(f"the model is a local folder, which has no revision {revision!r}", hint=hint, file=folder)
        return folder
    if folder is not None and folder.exists():
        raise CheckpointError("the model is a file; a checkpoint is a folder", hint=f"name its folder: {folder.parent}", file=folder)
    if not HUB_ID.fullmatch(model) or ".." in model:
        raise CheckpointError(f"no folder {model!r} here, and no hub id either", hint=LIKE)
    return _snapshot(model, revision)


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache holds; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name) else None


def name_of(model: str) -> str:
    """What a model is called away from this machine: a hub id as it is, a local folder by its name alone.

    >>> name_of("Qwen/Qwen2.5-0.5B"), name_of("/models/tiny"), name_of("../tiny/")
    ('Qwen/Qwen2.5-0.5B', 'tiny', 'tiny')
    """
    if not model.startswith(("/", ".", "~")):
        return model
    path = Path(model).expanduser()
    return (path.resolve() if path.name in ("", "..") else path).name


def _folder(model: str, relative_to: Path | None) -> Path | None:
    """None where the text cannot be a path at all."""
    if not model.strip() or "\0" in model:
        return None
    try:
        folder = Path(relative_to or Path.cwd(), Path(model).expanduser()).resolve()
        folder.exists()
    except (OSError, RuntimeError, ValueError):
        return None
    return folder


def _snapshot(model: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(model, revision=revision, timeout=PATIENCE)  # a download without a network would try again for half a minute
        return Path(snapshot_download(model, revision=revision, allow_patterns=[*WEIGHTS, *KEPT, *TERMS, CARD], etag_timeout=PATIENCE))
    except GatedRepoError:
        hint = f"accept its terms at https://huggingface.co/{model}, then: hf auth login"
        raise CheckpointError(f"{model} is closed to you", hint=hint) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{model} has no revision {revision!r}", hint="name a commit, tag or branch of the repository") from None
    except HFValidationError:
        raise CheckpointError(f"no folder {model!r} here, and no hub id either", hint=LIKE) from None
    except RepositoryNotFoundError:
        raise CheckpointError(f"no folder {model!r} here, and no such model on the hub", hint="is it private? hf auth login") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        return _cached(model, revision, error)
    except Exception as error:  # the errors of the hub's HTTP library are not among OSError's, and the library is no dependency of ours
        if not type(error).__module__.startswith(("httpx", "requests", "urllib3")):
            raise
        return _cached(model, revision, error)


def _cached(model: str, revision: str | None, error: Exception) -> Path:
    """What the cache has, where that suffices."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=list(NEEDED), local_files_only=True))
    except (OSError, ValueError):
        folder = None
    if folder is not None and (folder / "config.json").is_file():
        return folder
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    message = f"no folder {model!r} here, it is not in the hub's cache, and the hub cannot be reached ({reason})"
    raise CheckpointError(message, hint=f"with a network, beforehand: hf download {model}{f' --revision {revision}' if revision else ''}")
