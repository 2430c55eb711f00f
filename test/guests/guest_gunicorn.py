"""gunicorn with workers that share a preloaded application, which has opened its database before the fork, or
opens it afterwards (programs/web_app.py)."""

import web_load
from place import HOME, PROGRAMS, need

CANNOT = {}


def run(place):
    python = need(HOME / "venv/bin/python")
    outcomes = {}
    for when in ("before", "after"):
        server = web_load.Server(
            place, when,
            [python, "-m", "gunicorn", "--preload", "--workers", "2", "--threads", "2", "--bind", "127.0.0.1:{port}",
             "--graceful-timeout", "20", "--chdir", PROGRAMS, "web_app:application"],
            OPEN=when,
        )  # fmt: skip
        outcomes.update(web_load.play(server))
    return outcomes
