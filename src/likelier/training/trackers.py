"""Where else a run is reported (`report_to`): names that exist, packages that are there, before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from likelier.utils.errors import ConfigError, nearest

# Packages that a tracker needs, as pip names them, with their modules: one of the modules will do.
_NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "tensorboard": {"tensorboard": ("tensorboard", "tensorboardX")},
    "wandb": {"wandb": ("wandb",)},
    "trackio": {"trackio": ("trackio",)},
    "mlflow": {"mlflow": ("mlflow",)},
    "comet_ml": {"comet-ml": ("comet_ml",)},
    "azure_ml": {"azureml-sdk": ("azureml",)},
    "neptune": {"neptune": ("neptune",)},
    "codecarbon": {"codecarbon": ("codecarbon",)},
    "clearml": {"clearml": ("clearml",)},
    "dagshub": {"dagshub": ("dagshub",), "mlflow": ("mlflow",)},
    "flyte": {"flytekit": ("flytekit",)},
    "dvclive": {"dvclive": ("dvclive",)},
    "swanlab": {"swanlab": ("swanlab",)},
}
_WORDS = ("none", "all")


def check_trackers(report_to: str) -> None:
    """Raises `ConfigError` for a tracker that transformers does not know, or whose package is not installed."""
    for name in report_to.split(","):
        if name not in INTEGRATION_TO_CALLBACK and name not in _WORDS:
            known = [*INTEGRATION_TO_CALLBACK, *_WORDS]
            raise ConfigError(
                f"report_to={name!r} is no tracker that transformers knows (it knows: "
                f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}){nearest(name, known)}"
            )
        missing = [package for package, modules in _NEEDS.get(name, {}).items() if not any(map(find_spec, modules))]
        if missing:
            packages = " ".join(missing)
            raise ConfigError(
                f"report_to={name!r} needs the package {packages}, which is not installed: pip install {packages}, or "
                "drop --report-to (metrics.jsonl holds every number all the same)"
            )
