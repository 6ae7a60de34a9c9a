"""What a cache does wrong: a small probe of rules that a shared cache must follow (RFC 9111)."""

import http.client
import time
import uuid

from servers import get


def probe(port):
    """Short names of the rules that the cache breaks."""
    wrong = []

    def ask(rule, key, query="", **fields):
        status, headers, body = get(port, f"/probe/{rule}/{key}{query}",
                                    {name.replace("_", "-"): value for name, value in fields.items()})
        if status != 200:
            raise RuntimeError(f"/probe/{rule}: status {status}")
        said, call = body.decode().rsplit("#", 1)
        return said, call, headers

    def key():
        return uuid.uuid4().hex[:12]

    def settle():
        time.sleep(0.1)  # some caches store after they have answered

    def other(rule, name, first, second, query=("", "")):
        """The second request, which differs from the first, must not get the first one's response."""
        one = key()
        ask(rule, one, query[0], **first)
        settle()
        if ask(rule, one, query[1], **second)[0] == ask(rule, one, query[0], **first)[0]:
            wrong.append(name)

    other("vary", "Vary ignored", {"accept_language": "en"}, {"accept_language": "de"})
    other("authorization", "Authorization shared", {"authorization": "Basic YTph"}, {"authorization": "Basic Yjpi"})
    other("host", "Host ignored", {"host": "a.example"}, {"host": "b.example"})
    other("query", "query ignored", {}, {}, query=("?q=1", "?q=2"))
    other("query", "unlisted query ignored", {}, {}, query=("?other=1", "?other=2"))
    if "query ignored" in wrong and "unlisted query ignored" in wrong:
        wrong.remove("unlisted query ignored")

    one = key()
    ask("set-cookie", one)
    settle()
    first, second = ask("set-cookie", one)[2], ask("set-cookie", one)[2]
    if first.get("set-cookie") and first.get("set-cookie") == second.get("set-cookie"):
        wrong.append("Set-Cookie shared")
    for rule in ("no-store", "private"):
        one = key()
        calls = []
        for _ in range(3):
            calls.append(ask(rule, one)[1])
            settle()
        if len(set(calls)) < 3:
            wrong.append(f"{rule} ignored")

    one = key()
    before = ask("expired", one)[1]
    time.sleep(2.2)
    first = ask("expired", one)[1]
    time.sleep(0.3)
    if ask("expired", one)[1] == before:
        wrong.append("max-age ignored")
    elif first == before:
        wrong.append("served stale once (grace)")

    one = key()
    before = ask("post", one)[1]
    settle()
    get(port, f"/probe/post/{one}", method="POST")
    settle()
    if ask("post", one)[1] == before:
        wrong.append("POST does not invalidate")
    return wrong


def checked(port, calls_port, path, body):
    """None if the page is answered from the cache and has this body, else what is wrong."""
    try:
        for attempt in range(20):
            get(port, path)
            before = get(calls_port, "/calls")[2]
            status, headers, got = get(port, path)
            if status != 200:
                return f"status {status}"
            if got != body:
                return "another body"
            if get(calls_port, "/calls")[2] == before:
                said = headers.get("cache-status", "; hit")
                return None if "; hit" in said else f"Cache-Status: {said}"
            time.sleep(0.1)
        return "not a hit"
    except (OSError, http.client.HTTPException) as error:
        return str(error)
