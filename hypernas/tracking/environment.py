"""What a run was made with: versions, machine and commit, as tags."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess

__all__ = ["environment_tags", "git_commit"]


def environment_tags() -> dict[str, str]:
    """Tags of every run. Versions come from the packages' metadata: torch is not imported for them."""
    tags = {
        "hypernas.version": importlib.metadata.version("hypernas"),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "platform": platform.platform(),
        "n_cpus": str(os.cpu_count()),
        "mlflow.source.name": "hypernas",
        "mlflow.source.type": "LOCAL",
    }
    user = os.environ.get("USER") or os.environ.get("LOGNAME")
    if user:
        tags["mlflow.user"] = user
    commit = git_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def git_commit() -> str | None:
    """The commit checked out in the current folder; None outside a repository, without commits or without git."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # git is not needed for anything else
    return answer.stdout.strip() if answer.returncode == 0 else None
