"""mattn/go-sqlite3's own tests, in both ways that it is used: linked to the distribution's SQLite (the tag
libsqlite3), preloaded; and with the SQLite inside that it carries, which no preloading reaches: there a file
beside the tests (programs/go_loader_test.go) loads the extension."""

import re

from place import HOME, need

CANNOT = {
    "carried.TestSerializeDeserialize": "sqlite3_deserialize() opens no image of a database in WAL mode, "
    "as SQLite documents",
}

RESULT = re.compile(r"^\s*--- (PASS|FAIL|SKIP): (\S+)", re.MULTILINE)
WORDS = {"PASS": "passed", "FAIL": "failed", "SKIP": "skipped"}


def run(place):
    folder = need(HOME / "go-sqlite3")
    slow = [] if place.long else ["-test.skip", "TestSuite|TestExecContextCancel|TestQueryRowContextCancelParallel"]
    arguments = ["-test.v", *slow]
    linked = place.run(place.preloaded([folder / "linked.test", *arguments]))
    carried = place.run([folder / "carried.test", *arguments], **place.loading())
    return {f"{how}.{name}": WORDS[word]
            for how, said in (("linked", linked), ("carried", carried))
            for word, name in RESULT.findall(said)}  # fmt: skip
