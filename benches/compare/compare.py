"""Measures each cache in turn, round after round; see scripts/compare --help."""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import threading
import time

import report
from contenders import LARGE, MISSES, all_contenders
from probe import checked, probe
from servers import BINARY, ROOT, Servers, cpu, family, get

HERE = pathlib.Path(__file__).resolve().parent
SIZES = [1 << 10, 16 << 10, 256 << 10]
ZIPF_SIZES = [1 << 10, 16 << 10]  # 10,000 keys of 256 KiB are 2.5 GiB for each cache
CONNECTIONS = [1, 64, 256]
LARGE_SIZES = [1 << 20, 8 << 20]


def wrk(port, path, connections, seconds, keys="", delay=0):
    """The figures of one run of wrk (see wrk.lua)."""
    env = {**os.environ, "COMPARE_KEYS": keys}
    if delay:
        env["COMPARE_DELAY"] = str(delay)
    command = ["wrk", "-t", str(min(connections, 2)), "-c", str(connections), "-d", f"{seconds}s", "--latency",
               "--timeout", "10s", "-s", str(HERE / "wrk.lua"), f"http://127.0.0.1:{port}{path}"]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{' '.join(command)}: {run.stdout[-300:]} {run.stderr[-300:]}")
    return json.loads(lines[-1])


def calls(contender):
    return int(get(contender.calls_port, "/calls")[2])


class Run:
    def __init__(self, options):
        self.options = options
        self.servers = Servers()
        self.records = []
        self.contenders = [c for c in all_contenders() if not options.only or c.name in options.only]
        self.bodies = {}

    def start(self):
        for contender in self.contenders:
            print(f"starting {contender.name}", flush=True)
            self.begin(contender)
        reference, port = self.servers.application("bare", "", 0)
        for size in SIZES + LARGE_SIZES:
            self.bodies[size] = get(port, f"/page/{size}/0")[2]
            assert len(self.bodies[size]) == size
        self.servers.end(reference)

    def begin(self, c):
        front = {"nginx": self.servers.nginx, "varnish": self.servers.varnish}.get(c.name)
        application, c.calls_port = self.servers.application("bare" if front else c.name, c.back, c.number)
        c.process, c.port = front(c.calls_port) if front else (application, c.calls_port)
        get(c.port, "/page/1024/0")  # now the workers of a proxy run too
        c.pids = family(application.pid) + (family(c.process.pid) if front else [])

    def back_pids(self, contender):
        return [self.servers.pids[contender.back]] if contender.back else []

    def measured(self, contender, load, flush=False):
        """Runs the load and adds what it has cost."""
        app, back, called = cpu(contender.pids), cpu(self.back_pids(contender)), calls(contender)
        figures = load()
        if flush:
            get(contender.calls_port, "/flush")
        figures["calls"] = calls(contender) - called
        requests = max(figures["requests"], 1)
        figures["app_us"] = (cpu(contender.pids) - app) / requests * 1e6
        figures["back_us"] = (cpu(self.back_pids(contender)) - back) / requests * 1e6
        figures["rate"] = figures["requests"] / figures["seconds"]
        return figures

    def record(self, contender, figures, **about):
        if figures["failed"]:
            contender.problems.append(f"{figures['failed']} failed requests ({describe(about)})")
        self.records.append({"contender": contender.name, **about, **figures})

    def ready(self, contender, size, path):
        """Checks that the page is a hit; a cache that fails the check is not measured with this size."""
        if contender.name == "bare":
            return True
        why = checked(contender.port, contender.calls_port, path, self.bodies[size])
        if why:
            contender.problems.append(f"{report.size_name(size)} bodies not measured: {why}")
        return not why

    def fill(self, contender, size):
        """Asks for all 10,000 keys until the cache has them."""
        if contender.name == "bare" or ("zipf", size) in contender.warm:
            return
        for _ in range(30):
            before = calls(contender)
            wrk(contender.port, "/", 64, 1, keys=f"all {size}")
            get(contender.calls_port, "/flush")
            if calls(contender) == before:
                break
        contender.warm.add(("zipf", size))

    def hits(self, number):
        for size in self.options.sizes:
            for connections in self.options.connections:
                for c in self.contenders:
                    path = f"/page/{size}/0"
                    if self.ready(c, size, path):
                        load = lambda: wrk(c.port, path, connections, self.options.seconds)  # noqa: B023
                        self.record(c, self.measured(c, load), scenario="hits", size=size,
                                    connections=connections, round=number)
        for size in self.options.zipf_sizes:
            for c in self.contenders:
                self.fill(c, size)
                if self.ready(c, size, f"/page/{size}/1"):
                    load = lambda: wrk(c.port, "/", 64, self.options.seconds, keys=f"zipf {size}")  # noqa: B023
                    self.record(c, self.measured(c, load), scenario="zipf", size=size, connections=64, round=number)

    def misses(self, number):
        for hitter in self.contenders:
            if hitter.name not in MISSES:
                continue
            c = dataclasses.replace(hitter, number=hitter.number + 8)  # another process, with nothing stored
            self.begin(c)
            run = f"{number}x{c.name}"
            load = lambda: wrk(c.port, "/", 200, self.options.seconds, keys=f"new {run}")  # noqa: B023
            figures = self.measured(c, load, flush=True)
            if c.name != "bare":
                figures["stored"] = self.stored(c, run, figures["requests"])
            self.record(c, figures, scenario="misses", size=16 << 10, connections=200, round=number)
            self.servers.end(c.process)
            if c.back == "redis":
                self.servers.flush_redis(c.number)

    def stored(self, contender, run, requests):
        """The share of a sample of the misses that are hits now."""
        sample = [int(i * requests * 0.4 / 50) + 2 for i in range(50)]  # wrk makes the first and does not send it
        before = calls(contender)
        for i in sample:
            get(contender.port, f"/miss/{run}-1-{i}")
        return 1 - (calls(contender) - before) / len(sample)

    def large(self, number):
        for size in [0] + LARGE_SIZES:
            for c in self.contenders:
                if c.name not in LARGE or not self.ready(c, 1024, "/page/1024/0"):
                    continue
                if size and not self.ready(c, size, f"/page/{size}/0"):
                    continue
                seconds, beside = self.options.seconds, []
                if size:
                    load = lambda: beside.append(wrk(c.port, f"/page/{size}/0", 4, seconds, delay=100))  # noqa: B023
                    thread = threading.Thread(target=load)
                    thread.start()
                figures = self.measured(c, lambda: wrk(c.port, "/page/1024/0", 32, seconds, delay=5))  # noqa: B023
                if size:
                    thread.join()
                    figures["large_rate"] = beside[0]["requests"] / beside[0]["seconds"]
                self.record(c, figures, scenario="large", size=size, connections=32, round=number)

    def probes(self):
        for c in self.contenders:
            if c.group in ("ours", "layer", "proxy"):
                print(f"probing {c.name}", flush=True)
                c.wrong = probe(c.port)

    def data(self, rounds):
        """What report.py needs."""
        contenders = [{"name": c.name, "title": c.title, "group": c.group, "back": c.back, "wrong": c.wrong,
                       "problems": sorted(set(c.problems))} for c in self.contenders]
        return {"about": about(self.options, self.servers, rounds), "records": self.records, "contenders": contenders}

    def close(self):
        self.servers.close()


def describe(about):
    return ", ".join(f"{name} {value}" for name, value in about.items())


def output(*command):
    run = subprocess.run(command, capture_output=True, text=True)
    return (run.stdout + run.stderr).strip().splitlines()[0] if run.stdout + run.stderr else "?"


def about(options, servers, rounds):
    """The machine and the versions."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / 1024**2
    lock = (HERE / "Cargo.lock").read_text()
    crates = dict(re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"', lock))
    names = ["axum", "hyper", "tokio", "sqlx", "redis", "bb8", "tower-http-cache", "hitbox-tower", "hitbox-moka",
             "hitbox-redis", "axum-response-cache", "http-cache-tower-server"]
    changed = output("git", "-C", str(ROOT), "status", "--porcelain", "--", "src", "Cargo.toml") != "?"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") + (" with changes" if changed else ""),
        "cores": os.cpu_count(),
        "model": model[1] if model else platform.processor(),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "rustc": output("rustc", "--version"),
        "servers": sorted(servers.versions.values()) + [
            output("redis-server", "--version").split(" sha")[0], output("nginx", "-v"),
            output("varnishd", "-V").split(" revision")[0] + ")", output("wrk", "-v").split(" [")[0]],
        "crates": {name: crates.get(name, "?") for name in names},
        "command": "scripts/compare " + " ".join(sys.argv[1:]),
        "body": options.body,
        "rounds": rounds,
        "seconds": options.seconds,
        "load": os.getloadavg(),
    }


def parse():
    parser = argparse.ArgumentParser(prog="scripts/compare", add_help=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--body", choices=["text", "random"], default="text")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches")
    options = parser.parse_args()
    options.sizes, options.zipf_sizes, options.connections = SIZES, ZIPF_SIZES, CONNECTIONS
    if options.quick:
        options.rounds, options.seconds = 1, 1
    names = [c.name for c in all_contenders()]
    for name in options.only:
        if name not in names:
            parser.error(f"--only {name}: the names are {', '.join(names)}")
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    return options


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.list:
        print("\n".join(f"{c.name:26} {c.title}" for c in all_contenders()))
        return
    saved = BINARY.parents[1] / "results.json"
    if not options.report:
        os.environ["COMPARE_BODY"] = options.body
        run = Run(options)
        try:
            run.start()
            run.probes()
            begun = time.monotonic()
            for number in range(1, options.rounds + 1):
                for part in (run.hits, run.misses, run.large):
                    part(number)
                    print(f"round {number}: {part.__name__} done, {time.monotonic() - begun:.0f} s", flush=True)
                    saved.write_text(json.dumps(run.data(number), indent=1))
        finally:
            run.close()
    data = json.loads(saved.read_text())
    (options.out / "RESULTS.md").write_text(report.markdown(data))
    (options.out / "RESULTS.svg").write_text(report.svg(data))
    print(f"wrote {options.out / 'RESULTS.md'} and {options.out / 'RESULTS.svg'}")


if __name__ == "__main__":
    main()
