"""Names that people give for models and data sets: what is a path, and whether the hub has what is none.

Libraries ask a hub that cannot be reached again and again, for more than a minute, and look into their cache then. Here
it is asked once, so that a slip of the pen is told in a moment and what lies in the cache is taken from there.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Literal

from likelier.utils.console import say
from likelier.utils.errors import LikelierError, whole_reason
from likelier.utils.files import local

_PATIENCE = 10.0  # seconds for the hub's answer


class NotOnHub(LikelierError):
    """A hub id of which nothing can be had: the message says why."""


def is_path(name: str) -> bool:
    """Whether a name can only be a path here, since no hub id looks like it."""
    path = local(name)
    return path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.suffix == ".gguf"


@lru_cache
def ask_hub(name: str, kind: Literal["model", "dataset"]) -> None:
    """Ask once whether the hub has a model or data set. Where it cannot be reached, the process takes what the cache
    holds and asks no more.

    Raises `NotOnHub` where the hub has nothing of that name, or is out of reach with nothing of it in the cache.
    """
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if is_offline_mode():
        return
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=_PATIENCE)
    except HFValidationError as error:
        raise NotOnHub(f"it is no hub id either ({whole_reason(error)})") from error
    except RepositoryNotFoundError as error:
        raise NotOnHub(
            f"the hub has no {kind} of that name that you may see; if it is private, log in with `hf auth login`"
        ) from error
    except HfHubHTTPError:
        pass  # it answers: what is wrong shows when the files are asked for
    except Exception as error:  # of the network, and there are many
        reason = f"the hub cannot be reached ({whole_reason(error)})"
        if not _in_cache(name, kind):
            raise NotOnHub(f"{reason}, nor does its cache hold anything of that name") from error
        say(f"{reason}: {name} is taken from its cache")
        _stay_offline()


def _in_cache(name: str, kind: str) -> bool:
    from huggingface_hub import constants

    if (Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}").is_dir():
        return True
    if kind == "model":
        return False
    from datasets.config import HF_DATASETS_CACHE

    return (Path(HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir()


def _stay_offline() -> None:
    """As the variable HF_HUB_OFFLINE, which is read when the libraries are imported."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets.config"].__dict__["HF_HUB_OFFLINE"] = True
