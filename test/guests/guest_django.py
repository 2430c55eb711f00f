"""Django 4.2's own tests, from its sdist, each database in a file (programs/django_settings.py)."""

from place import HOME, need

SOME = ["basic", "transactions", "delete", "get_or_create", "update", "multiple_database", "foreign_object"]

# With -long all others are.
NOT_RUN = {
    "gis_tests": "ask for SpatiaLite",
    "import_error_package": "is what a test imports to see it fail",
    "test_runner": "tests the runner, and leaves no app installed for the tests of others that come later",
    "test_runner_apps": "is what test_runner runs, with tests that fail",
}

PART = 30  # apps in a program, each with databases of its own

CANNOT = {}


def every_app(tests):
    return sorted(file.parent.name for file in tests.glob("*/__init__.py") if file.parent.name not in NOT_RUN)


def run(place):
    tests, python = need(HOME / "Django/tests"), need(HOME / "venv/bin/python")
    apps = every_app(tests) if place.long else SOME
    for first in range(0, len(apps), PART):
        command = [python, "runtests.py", "--settings=django_settings", "--keepdb", "--parallel=1",
                   "--noinput", *apps[first : first + PART]]  # fmt: skip
        place.run(place.preloaded(command), cwd=tests, GUEST_PART=first // PART)
    return place.outcomes()
