"""A Django project in one file: Django's page cache for the whole site, stored by Django-MySQL's cache backend.

    page_cache.py mysql_cache_migration    # or another command of manage.py
    page_cache.py create                   # makes the table by the SQL of that migration
    page_cache.py calls                    # answers lines `hits KIB N` on standard input with `done`
    gunicorn page_cache:application

`hits KIB N` calls the application N times in this process, for the pages /page/KIB/0 to /page/KIB/31 in turn.
DATABASE_URL is the database, BODIES the directory with the bodies, CALLS the file that gets a byte for each call
of the view.
"""

import os
import pathlib
import sys
import urllib.parse

import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

url = urllib.parse.urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    SECRET_KEY="of a benchmark",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django_mysql"],
    SILENCED_SYSTEM_CHECKS=["django_mysql.W002", "django_mysql.W003"],
    # what Django's documentation asks for, in its order, and no other middleware
    MIDDLEWARE=[
        "django.middleware.cache.UpdateCacheMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.cache.FetchFromCacheMiddleware",
    ],
    CACHES={
        "default": {
            "BACKEND": "django_mysql.cache.MySQLCache",
            "LOCATION": "django_pages",
            # the default is 300, and a page takes two; above it, pages are culled and hits become misses
            "OPTIONS": {"MAX_ENTRIES": 10_000},
        }
    },
    CACHE_MIDDLEWARE_SECONDS=3600,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.mysql",
            "NAME": url.path[1:],
            "HOST": url.hostname,
            "PORT": url.port,
            "USER": url.username,
            # with the default, each request would connect again, at twice the price
            "CONN_MAX_AGE": None,
            "OPTIONS": {"charset": "utf8mb4"},
        }
    },
)
django.setup()

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.test import RequestFactory  # noqa: E402


PAGES = 32  # of each size


def page(request, kib, number):
    with open(os.environ["CALLS"], "ab") as calls:
        calls.write(b".")
    return HttpResponse((pathlib.Path(os.environ["BODIES"]) / str(kib)).read_bytes())


urlpatterns = [path("page/<int:kib>/<int:number>", page)]
application = WSGIHandler()


def create():
    """Runs the operations of the migration that the documented command prints."""
    import contextlib
    import io

    from django.core.management import call_command
    from django.db import connection

    text = io.StringIO()
    call_command("mysql_cache_migration", stdout=text)
    module = {}
    exec(compile(text.getvalue(), "migration", "exec"), module)
    with contextlib.closing(connection), connection.schema_editor() as editor:
        for operation in module["Migration"].operations:
            operation.database_forwards("pages", editor, None, None)


def hit(environ):
    """One call as a WSGI server makes it: the body is read and the response closed."""
    status = []
    response = application(dict(environ), lambda line, fields: status.append(line))
    b"".join(response)
    response.close()
    if status != ["200 OK"]:
        raise RuntimeError(f"{environ['PATH_INFO']} answered {status}")


def calls():
    factory = RequestFactory(SERVER_NAME="127.0.0.1")
    for line in sys.stdin:
        _, kib, number = line.split()
        environs = [factory.get(f"/page/{kib}/{page}").environ for page in range(PAGES)]
        for call in range(int(number)):
            hit(environs[call % PAGES])
        print("done", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["create"]:
        create()
    elif sys.argv[1:] == ["calls"]:
        calls()
    else:
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
