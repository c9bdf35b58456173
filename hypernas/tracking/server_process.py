"""MLflow's own server in one process: ``python -m hypernas.tracking.server_process SETTINGS``.

``mlflow server`` imports MLflow twice, in a process that checks the store and in the one that serves. This does both
in one process, with the same application, settings and checks, and so answers in half the time. With an MLflow whose
inner names are others, it becomes ``mlflow server``.

The settings are one JSON object: ``uri``, ``artifacts`` (a file URI), ``host``, ``port``, ``socket`` (the number of a
listening socket that was passed on) and ``start_path``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

SETTINGS_OF_SERVER = {  # names of environment variables, as in mlflow.server.constants
    "BACKEND_STORE_URI_ENV_VAR": "_MLFLOW_SERVER_FILE_STORE",
    "REGISTRY_STORE_URI_ENV_VAR": "_MLFLOW_SERVER_REGISTRY_STORE",
    "ARTIFACT_ROOT_ENV_VAR": "_MLFLOW_SERVER_ARTIFACT_ROOT",
    "ARTIFACTS_DESTINATION_ENV_VAR": "_MLFLOW_SERVER_ARTIFACT_DESTINATION",
    "SERVE_ARTIFACTS_ENV_VAR": "_MLFLOW_SERVER_SERVE_ARTIFACTS",
}
STORE = "_HYPERNAS_STORE"  # an address may hold a password, and arguments are read by everybody on a machine
STOPPED_WITHIN_S = 2  # for answers on their way when the server is stopped


def main(settings: dict[str, Any]) -> None:
    """Serve until SIGTERM, or until the other end of stdin is closed: no server outlives the command."""
    values = (settings["uri"], settings["uri"], settings["artifacts"], settings["artifacts"], "true")
    os.environ.update(zip(SETTINGS_OF_SERVER.values(), values, strict=True))
    os.environ["_MLFLOW_SGI_NAME"] = "uvicorn"
    gc.disable()  # imports make objects that stay: looking through them again and again is a quarter of the time
    try:
        app, initialize = _mlflow_app()
        _add_own_pages(app, settings["start_path"])
    except (ImportError, AttributeError) as error:
        print(f"{type(error).__name__}: {error}; starting mlflow server instead", file=sys.stderr, flush=True)
        _become_mlflow_server(settings)
    initialize(settings["uri"], settings["uri"], settings["artifacts"])
    gc.collect()
    gc.freeze()
    gc.enable()
    _serve(app, settings)


def _mlflow_app() -> tuple[FastAPI, Callable[[str, str, str], None]]:
    """The application that ``mlflow server`` hands to uvicorn, and what it calls before."""
    import mlflow.server
    import uvicorn  # noqa: F401  (not there: the caller does without)
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    for constant, name in SETTINGS_OF_SERVER.items():
        if getattr(mlflow.server, constant) != name:
            raise AttributeError(f"mlflow.server.{constant} is not {name}")
    return app, initialize_backend_stores


def _add_own_pages(app: FastAPI, start_path: str) -> None:
    """One page of ours, at a path that MLflow does not have; and the files of its pages without a detour.

    One visit asks for forty files. Each would go through Flask and a thread: half of the server's time.
    """
    import mlflow.server
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    from hypernas.tracking.views import start_page

    class Files(StaticFiles):
        """Answers that a browser keeps, as MLflow's own: the names of the files change with what is in them."""

        def file_response(self, *args: Any, **kwargs: Any) -> Response:
            answer = super().file_response(*args, **kwargs)
            answer.headers.setdefault("cache-control", "public, max-age=2419200")
            return answer

    def start(request: Request) -> Response:
        experiments = mlflow.MlflowClient(os.environ["_MLFLOW_SERVER_FILE_STORE"]).search_experiments(max_results=1000)
        ids = [str(experiment.experiment_id) for experiment in experiments]
        return HTMLResponse(start_page(ids), headers={"cache-control": "no-store"})

    # before MLflow's own, whose last one takes every path
    app.router.routes[:0] = [
        Route(start_path, start),
        Mount("/static-files", Files(directory=str(mlflow.server.app.static_folder))),
    ]


def _serve(app: FastAPI, settings: dict[str, Any]) -> None:
    import socket

    import uvicorn

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=STOPPED_WITHIN_S)
    server = uvicorn.Server(config)

    def stop_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=settings["socket"])])


def _become_mlflow_server(settings: dict[str, Any]) -> NoReturn:
    os.close(settings["socket"])
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", settings["uri"], "--workers", "1"]
    command += ["--default-artifact-root", settings["artifacts"], "--artifacts-destination", settings["artifacts"]]
    command += ["--host", settings["host"], "--port", str(settings["port"])]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main({**json.loads(sys.argv[1]), "uri": os.environ.pop(STORE)})
