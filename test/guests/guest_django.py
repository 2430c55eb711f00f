"""Django 4.2's own tests, from its sdist, each database in a file (programs/django_settings.py)."""

from place import HOME, need

APPS = ["basic", "transactions", "delete", "get_or_create", "update", "multiple_database", "foreign_object"]

# What needs nothing but Django and uses databases: all but what asks for other services, or for programs.
LONG = [
    *APPS, "aggregation", "aggregation_regress", "annotations", "backends", "bulk_create", "cache",
    "constraints", "contenttypes_tests", "custom_columns", "custom_managers", "custom_pk", "datatypes",
    "dates", "datetimes", "db_functions", "defer", "delete_regress", "expressions", "expressions_case",
    "expressions_window", "extra_regress", "fixtures", "fixtures_regress", "force_insert_update",
    "from_db_value", "generic_relations", "indexes", "inspectdb", "introspection", "known_related_objects",
    "lookup", "m2m_through", "many_to_many", "many_to_one", "migrate_signals", "migrations", "model_fields",
    "model_inheritance", "modeladmin", "null_queries", "one_to_one", "ordering", "pagination",
    "prefetch_related", "queries", "queryset_pickle", "raw_query", "schema", "select_for_update",
    "select_related", "servers", "signals", "sites_tests", "test_client", "test_utils",
    "transaction_hooks", "update_only_fields", "view_tests", "admin_views",
]  # fmt: skip

CANNOT = {}


def run(place):
    source, python = need(HOME / "Django/tests"), need(HOME / "venv/bin/python")
    command = [python, "runtests.py", "--settings=django_settings", "--keepdb", "--parallel=1",
               "--noinput", *(LONG if place.long else APPS)]  # fmt: skip
    place.run(place.preloaded(command), cwd=source)
    return place.outcomes()
