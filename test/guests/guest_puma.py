"""Puma in cluster mode with preload_app! (programs/puma.rb, programs/config.ru), a database opened before the
fork, or after it."""

from pathlib import Path

import web_load
from place import PROGRAMS, need

CANNOT = {}


def run(place):
    puma = need(Path("/usr/bin/puma"))
    outcomes = {}
    for when in ("before", "after"):
        server = web_load.Server(
            place, when,
            [puma, "-C", PROGRAMS / "puma.rb", "-b", "tcp://127.0.0.1:{port}", "-e", "production",
             PROGRAMS / "config.ru"],
            OPEN=when,
        )  # fmt: skip
        outcomes.update(web_load.play(server))
    return outcomes
