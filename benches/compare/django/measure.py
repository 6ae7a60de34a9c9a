"""Measures what a hit costs: Django's page cache on Django-MySQL's backend, and this crate. `run` starts it.

All contenders run for the whole time. The rounds go through them in turn, so a busy machine slows all of them.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

import MySQLdb

HERE = pathlib.Path(__file__).resolve().parent
SIZES = [1, 16, 256]  # KiB
PAGES = 32  # of each size
CONNECTIONS = 64
OURS = ["mysql", "memory", "none"]


def text(size):
    """Text that deflate makes about a third of, as it does with HTML."""
    rng = random.Random(1)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 10))) for _ in range(4096)]
    parts = []
    for _ in range(size):
        parts.append(words[rng.randrange(64) * rng.randrange(64)] + rng.choice([" "] * 11 + ["</p>\n<p>"]))
    return "".join(parts).encode()[:size]


def cpu(pids):
    """Microseconds of processor time that the processes have used, by the kernel's clock of each process."""
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids) / 1000


class Database:
    def __init__(self, url, pid):
        url = urllib.parse.urlsplit(url)
        self.connection = MySQLdb.connect(host=url.hostname, port=url.port, user=url.username, db=url.path[1:])
        self.pid = pid

    def ask(self, statement):
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()

    def statements(self):
        """How many statements the server has run, for all clients."""
        return int(self.ask("SHOW GLOBAL STATUS LIKE 'Questions'")[1])


class Contender:
    """One process, or a gunicorn with two workers."""

    def __init__(self, name, over, command, directory):
        self.name, self.over, self.port = name, over, 0
        self.calls = directory / f"calls of {name}"
        self.calls.touch()
        self.log = directory / f"log of {name}"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env={**os.environ, "CALLS": str(self.calls), "BODIES": str(directory)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.pids = [self.process.pid]
        if command[0].endswith("gunicorn"):
            self.wait_for_gunicorn()
        elif "socket" in over:
            self.port = int(self.process.stdout.readline() or self.fail("did not start"))

    def fail(self, why):
        sys.exit(f"{self.name}: {why}\n{self.log.read_text()[-2000:]}")

    def wait_for_gunicorn(self):
        for _ in range(600):
            log = self.log.read_text()
            port = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", log)
            workers = re.findall(r"Booting worker with pid: (\d+)", log)
            if port and len(workers) == 2:
                self.port = int(port[1])
                self.pids += map(int, workers)
                return
            time.sleep(0.05)
        self.fail("did not start")

    def hits(self, kib, number):
        """Calls in the process of the application, without a socket."""
        self.process.stdin.write(f"hits {kib} {number}\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "done\n":
            self.fail("failed")
        return number

    def load(self, kib, seconds, script):
        """Requests over sockets for some seconds; returns their number."""
        report = subprocess.run(
            ["wrk", "-c", str(CONNECTIONS), "-t", "1", "-d", str(seconds), "-s", script,
             f"http://127.0.0.1:{self.port}/page/{kib}/"], capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in report or "Socket errors" in report:
            self.fail(report)
        return int(re.search(r"(\d+) requests in", report)[1])

    def store(self, kib, body):
        """Has all pages stored. Each costs one call of the handler."""
        if "socket" in self.over:
            for page in range(PAGES):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("GET", f"/page/{kib}/{page}")
                response = connection.getresponse()
                if (response.status, response.read()) != (200, body):
                    self.fail(f"/page/{kib}/{page} has another body")
                connection.close()
        if "calls" in self.over:
            self.hits(kib, CONNECTIONS)

    def check_calls(self):
        """Once for each page: the rest were hits."""
        called, pages = self.calls.stat().st_size, PAGES * len(SIZES) * len(self.over)
        if self.name != "none" and called != pages:
            self.fail(f"{called} calls of the handler for {pages} pages: not all hits were hits")

    def close(self):
        self.process.stdin.close()
        if "calls" not in self.over:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def contenders(arguments, directory):
    """Started one by one: an error ends those that run, because each dies with this script."""
    gunicorn = [str(pathlib.Path(sys.executable).with_name("gunicorn")), "page_cache:application", "--chdir", str(HERE),
                "--bind", "127.0.0.1:0", "--workers", "2", "--no-control-socket"]
    return [
        Contender("django", ["calls"], [sys.executable, str(HERE / "page_cache.py"), "calls"], directory),
        Contender("gunicorn sync", ["socket"], [*gunicorn, "--worker-class", "sync"], directory),
        Contender("gunicorn gthread", ["socket"], [*gunicorn, "--worker-class", "gthread", "--threads", "8"], directory),
        Contender("none", ["calls", "socket"], [arguments.ours, "none"], directory),
        Contender("mysql", ["calls", "socket"], [arguments.ours, "mysql"], directory),
        Contender("memory", ["calls", "socket"], [arguments.ours, "memory"], directory),
    ]


class Watch:
    """What is used from now on, by a contender and by the database."""

    def __init__(self, database, pids):
        self.database, self.pids = database, pids
        self.began = self.read()

    def read(self):
        return {"app_us": cpu(self.pids), "back_us": cpu([self.database.pid]),
                "statements_per_hit": self.database.statements(), "seconds": time.monotonic()}

    def elapsed(self):
        now = self.read()
        used = {what: now[what] - self.began[what] for what in now}
        return {**used, "statements_per_hit": used["statements_per_hit"] - 1}  # without the one that asks


def idle(database):
    """What the database does in a second while nothing is asked: the contenders' stores read their logs."""
    watch = Watch(database, [])
    time.sleep(2)
    used = watch.elapsed()
    return {what: used[what] / used["seconds"] for what in used}


def measured(database, contender, work, rest):
    """`work` returns its number of hits, `rest` is the database at rest."""
    watch = Watch(database, contender.pids)
    number = work()
    used = watch.elapsed()
    return {what: (used[what] - rest[what] * used["seconds"]) / number for what in used if what != "seconds"}


def calls_in(contender, kib, seconds, trial):
    """How many calls take about that many seconds, judged by `trial` calls."""
    began = time.monotonic()
    contender.hits(kib, trial)
    took = time.monotonic() - began
    return max(CONNECTIONS, int(seconds / took * trial))


def measure(arguments, database, over, kib, running, script, rest):
    """The rounds of one size; for each contender the figures of its rounds."""
    of_kind = [contender for contender in running if over in contender.over]
    works = {}
    for contender in of_kind:
        if over == "calls":
            number = calls_in(contender, kib, 0.3, CONNECTIONS * 4)
            number = calls_in(contender, kib, arguments.seconds, number)
            works[contender.name] = lambda c=contender, n=number: c.hits(kib, n)
        else:
            works[contender.name] = lambda c=contender: c.load(kib, arguments.seconds, script)
            contender.load(kib, 1, script)
    rounds = {contender.name: [] for contender in of_kind}
    for _ in range(arguments.rounds):
        for contender in of_kind:
            rounds[contender.name].append(measured(database, contender, works[contender.name], rest))
    return rounds


def report(over, kib, rounds):
    digits = {"app_us": 2, "back_us": 2, "statements_per_hit": 3}
    for name, figures in rounds.items():
        medians = {what: round(statistics.median(f[what] for f in figures), n) for what, n in digits.items()}
        print(json.dumps({"body_kib": kib, "over": over, "cache": name, **medians}), flush=True)
    for django in [name for name in rounds if name not in OURS]:
        times = {}
        for ours in OURS:
            ratios = [d["app_us"] / o["app_us"] for d, o in zip(rounds[django], rounds[ours])]
            times[ours] = [round(f, 1) for f in (statistics.median(ratios), min(ratios), max(ratios))]
        print(json.dumps({"body_kib": kib, "over": over, "cache": django, "median_least_most_times_of": times}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True, help="the program of this crate")
    parser.add_argument("--server-pid", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of a round")
    arguments = parser.parse_args()
    database = Database(os.environ["DATABASE_URL"], arguments.server_pid)
    with tempfile.TemporaryDirectory(prefix="tmc-django.") as directory:
        directory = pathlib.Path(directory)
        for kib in SIZES:
            (directory / str(kib)).write_bytes(text(kib << 10))
        script = directory / "pages.lua"
        script.write_text(f"""
            local page = 0
            request = function()
              page = (page + 1) % {PAGES}
              return wrk.format("GET", wrk.path .. page)
            end""")
        running = contenders(arguments, directory)
        try:
            for contender in running:
                for kib in SIZES:
                    contender.store(kib, text(kib << 10))
            rest = idle(database)
            for over in ("calls", "socket"):
                for kib in SIZES:
                    rounds = measure(arguments, database, over, kib, running, str(script), rest)
                    for contender in running:
                        contender.check_calls()
                    report(over, kib, rounds)
        finally:
            for contender in running:
                contender.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
