"""A web application that writes a row for each POST, and answers with its number and the worker's id."""

import os
import sqlite3
import threading

PATH = os.environ["DATABASE"]
local = threading.local()


def connect():
    connection = sqlite3.connect(PATH, timeout=60, isolation_level=None, check_same_thread=False)
    connection.execute("CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, worker, text)")
    return connection


# SQLite forbids the use of a connection in another process, not that it stays open there.
inherited = connect() if os.environ["OPEN"] == "before" else None
if inherited:
    inherited.execute("INSERT INTO note(worker, text) VALUES (?, 'before the fork')", (os.getpid(),))


def application(environ, start_response):
    if not hasattr(local, "connection"):
        local.connection = connect()
    text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    row = local.connection.execute("INSERT INTO note(worker, text) VALUES (?, ?)", (os.getpid(), text)).lastrowid
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{row} {os.getpid()}".encode()]
