"""Settings for Django's tests: databases in files, kept (--keepdb), and outcomes written down."""

import os

from django.test.runner import DiscoverRunner

from record import Recording


def _database(name):
    file = os.path.join(os.environ["GUEST_DATA"], name + os.environ["GUEST_PART"])
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{file}-unused.db", "TEST": {"NAME": f"{file}.db"}}


class Runner(DiscoverRunner):
    def get_resultclass(self):
        return Recording


DATABASES = {"default": _database("default"), "other": _database("other")}
TEST_RUNNER = "django_settings.Runner"
SECRET_KEY = "django_tests_secret_key"  # a test expects it
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
