"""RESULTS.md and RESULTS.svg from the measurements. Every figure of theirs is computed here; missed.md is written by hand."""

import pathlib
from html import escape
from statistics import median

from contenders import REDIS_LAYERS

KIB, MIB = 1 << 10, 1 << 20


def size_name(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def number(value, digits=3):
    """Three significant digits, with commas."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def latency(us):
    if us is None:
        return "–"
    return f"{us / 1000:.2f} ms" if us < 10_000 else f"{us / 1000:.0f} ms"


class Data:
    def __init__(self, data):
        self.about, self.contenders, self.records = data["about"], data["contenders"], data["records"]
        self.titles = {c["name"]: c["title"] for c in self.contenders}

    def rounds(self, contender, scenario, size, connections=None):
        """The record of each round."""
        return {r["round"]: r for r in self.records
                if r["contender"] == contender and r["scenario"] == scenario and r["size"] == size
                and connections in (None, r["connections"])}

    def middle(self, value, *where):
        values = [value(r) if callable(value) else r[value] for r in self.rounds(*where).values()]
        return median(values) if values else None

    def spread(self, *where):
        """How far the rounds are apart: (largest - smallest) / median of the requests a second."""
        rates = [r["rate"] for r in self.rounds(*where).values()]
        return (max(rates) - min(rates)) / median(rates) if len(rates) > 1 else None


def percent(share):
    return "–" if share is None else f"{share * 100:.0f} %"


def table(head, rows, align="--:"):
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] + [align] * (len(head) - 1)) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cost(record):
    return record["app_us"] + record["back_us"]


BODIES = {
    "text": "text, which the table stores compressed (as it does by default). The other caches store them as they are.",
    "random": "random bytes, which no cache compresses.",
}
HEAD = ["cache", "requests/s", "p50", "p99", "p99.9", "app CPU, µs", "back CPU, µs", "spread"]


def row(data, contender, *where):
    key = (contender["name"], *where)
    if not data.rounds(*key):
        return [contender["title"], "not measured"] + ["–"] * 6
    back = data.middle("back_us", *key) if contender["back"] else None
    mark = " ⚠" if contender["wrong"] else ""
    return [contender["title"] + mark, number(data.middle("rate", *key)), latency(data.middle("p50", *key)),
            latency(data.middle("p99", *key)), latency(data.middle("p999", *key)),
            number(data.middle("app_us", *key)), number(back), percent(data.spread(*key))]


def hits(data):
    parts = []
    for size in sorted({r["size"] for r in data.records if r["scenario"] == "hits"}):
        for connections in sorted({r["connections"] for r in data.records if r["scenario"] == "hits"}):
            where = ("hits", size, connections)
            callers = "1 connection" if connections == 1 else f"{connections} connections"
            parts.append(f"### {size_name(size)}, {callers}\n\n" +
                         table(HEAD, [row(data, c, *where) for c in data.contenders]))
    for size in sorted({r["size"] for r in data.records if r["scenario"] == "zipf"}):
        parts.append(f"### {size_name(size)}, 10,000 keys (Zipf), 64 connections\n\n" +
                     table(HEAD, [row(data, c, "zipf", size, 64) for c in data.contenders]))
    return "\n\n".join(parts)


def misses(data):
    head = ["cache", "requests/s", "p50", "p99", "app CPU, µs", "back CPU, µs", "stored", "spread"]
    rows = []
    for c in data.contenders:
        key = (c["name"], "misses", 16 * KIB)
        if data.rounds(*key):
            stored = data.middle(lambda r: r.get("stored", 0), *key) if c["name"] != "bare" else None
            rows.append([c["title"], number(data.middle("rate", *key)), latency(data.middle("p50", *key)),
                         latency(data.middle("p99", *key)), number(data.middle("app_us", *key)),
                         number(data.middle("back_us", *key) if c["back"] else None), percent(stored),
                         percent(data.spread(*key))])
    return table(head, rows)


def large(data):
    sizes = sorted({r["size"] for r in data.records if r["scenario"] == "large"})
    head = ["cache"] + [f"p99 beside {size_name(s)}" if s else "p99 alone" for s in sizes]
    head += [f"{size_name(s)} bodies/s" for s in sizes if s]
    rows = []
    for c in data.contenders:
        if any(data.rounds(c["name"], "large", s) for s in sizes):
            rows.append([c["title"]] + [latency(data.middle("p99", c["name"], "large", s)) for s in sizes] +
                        [number(data.middle("large_rate", c["name"], "large", s)) for s in sizes if s])
    return table(head, rows)


# ---------------------------------------------------------------------------------------------------- targets

def best_redis(data, value, *where, pick=min):
    """The better Redis-backed layer in each round."""
    rounds = {}
    for name in REDIS_LAYERS:
        for n, record in data.rounds(name, *where).items():
            rounds.setdefault(n, []).append(value(record))
    return {n: pick(values) for n, values in rounds.items()}


def ratios(above, below):
    """The quotient in each round that has both."""
    return [above[n] / below[n] for n in sorted(above) if below.get(n)]


def targets(data):
    """(what, "<=" or ">=", limit, the ratio of each round)"""
    def of(name, value, *where):
        value = value if callable(value) else (lambda r, key=value: r[key])
        return {n: value(r) for n, r in data.rounds(name, *where).items()}

    def compare(what, sign, limit, value, one, other, *where):
        return what, sign, limit, ratios(of(one, value, *where), of(other, value, *where))

    rows = []
    for size, limit in ((KIB, 1.15), (256 * KIB, 1.05)):
        rows.append(compare(f"hit in memory / bare handler, app CPU, {size_name(size)}", "<=", limit,
                            "app_us", "memory", "bare", "hits", size, 64))
    for size in (KIB, 16 * KIB, 256 * KIB):
        rows.append(compare(f"Tiered / memory, requests/s, {size_name(size)}", ">=", 0.95,
                            "rate", "tiered", "memory", "hits", size, 64))
        for proxy in ("nginx", "varnish"):
            rows.append(compare(f"memory / {data.titles.get(proxy, proxy)}, requests/s, {size_name(size)}", ">=", 1,
                                "rate", "memory", proxy, "hits", size, 64))
    for engine, title in (("mariadb", "MariaDB"), ("mysql", "MySQL")):
        store = f"store-{engine}"
        rows.append(compare(f"MySqlStore / a statement a request, requests/s, 1 KiB, 64 callers, {title}", ">=", 6,
                            "rate", store, f"statement-{engine}", "hits", KIB, 64))
        where = ("hits", KIB, 64)
        bare = of("bare", "app_us", *where)
        lookup = [{n: c - bare[n] for n, c in of(name, cost, *where).items() if n in bare}
                  for name in (f"statement-{engine}", store)]
        rows.append((f"the same without HTTP: CPU of a statement / of a lookup, less the bare handler's, {title}", ">=", 6,
                     ratios(*lookup)))
        rows.append((f"MySqlStore / Redis-backed layer, app + back CPU, 1 KiB, {title}", "<=", 1,
                     ratios(of(store, cost, *where), best_redis(data, cost, *where))))
        rows.append(compare(f"MySqlStore / a statement by hand, p50, 1 KiB, one caller, {title}", "<=", 1.15,
                            "p50", store, f"statement-{engine}", "hits", KIB, 1))
    # small bodies are never compressed, so what follows is all that differs without compression
    for store, title in (("store-mariadb", "MariaDB"), ("store-mariadb-plain", "MariaDB, uncompressed"), ("store-mysql", "MySQL")):
        where = ("hits", 256 * KIB, 64)
        rows.append((f"MySqlStore / Redis-backed layer, requests/s, 256 KiB, {title}", ">=", 2,
                     ratios(of(store, "rate", *where), best_redis(data, lambda r: r["rate"], *where, pick=max))))
        where = ("misses", 16 * KIB)
        rows.append((f"miss: MySqlStore / Redis-backed layer, app CPU, {title}", "<=", 1.3,
                     ratios(of(store, "app_us", *where), best_redis(data, lambda r: r["app_us"], *where))))
    rows.append(compare("miss: Tiered / MySqlStore, app CPU, MariaDB", "<=", 1.1,
                        "app_us", "tiered", "store-mariadb", "misses", 16 * KIB))
    bare = of("bare", "p99", "large", 8 * MIB)
    for name in ("memory", "tiered", "store-mariadb", "store-mariadb-plain", "store-mysql"):
        alone = of(name, "p99", "large", 0)
        for size in (MIB, 8 * MIB):
            rows.append((f"small hits beside {size_name(size)} / alone, p99, {data.titles.get(name, name)}", "<=", 1.5,
                         ratios(of(name, "p99", "large", size), alone)))
        rows.append((f"small hits beside 8 MiB / bare handler beside 8 MiB, p99, {data.titles.get(name, name)}", "<=", 1.5,
                     ratios(of(name, "p99", "large", 8 * MIB), bare)))
    return rows


def target_table(data):
    lines = []
    for what, sign, limit, values in targets(data):
        if not values:
            lines.append([what, f"{sign.replace('<=', '≤').replace('>=', '≥')} {limit}", "not measured", "–", "–"])
            continue
        middle = median(values)
        met = middle <= limit if sign == "<=" else middle >= limit
        lines.append([what, f"{'≤' if sign == '<=' else '≥'} {limit}", f"{middle:.2f}",
                      f"{min(values):.2f} to {max(values):.2f}", "yes" if met else "**no**"])
    return table(["target", "limit", "measured", "rounds", "met?"], lines)


# ------------------------------------------------------------------------------------------------------ files

def markdown(data):
    data = Data(data)
    about = data.about
    crates = ", ".join(f"{name} {version}" for name, version in about["crates"].items())
    probes = [[c["title"], ", ".join(c["wrong"]) or "nothing found"] for c in data.contenders
              if c["group"] in ("ours", "layer", "proxy")]
    problems = [f"- {c['title']}: {problem}" for c in data.contenders for problem in c["problems"]]
    unstable = [what for what, _, _, values in targets(data) if values and max(values) > 1.5 * min(values)]
    noise = ""
    if unstable:
        noise = ("\nThe ratio of the slowest to the fastest round was over 1.5 for these targets, so read them with care (the "
                 "machine may have had other work):\n\n" + "\n".join(f"- {what}" for what in unstable) + "\n")
    return f"""# Results

`scripts/compare` wrote this file and `RESULTS.svg`. Do not edit them.

![requests a second of hits](RESULTS.svg)

| | |
|---|---|
| date | {about["date"]}, commit {about["commit"]} |
| machine | {about["cores"]} cores ({about["model"]}), {about["memory"]}, Linux {about["kernel"]} |
| load average at the end | {", ".join(f"{load:.1f}" for load in about["load"])} |
| servers | {", ".join(about["servers"])} |
| crates | {crates}; {about["rustc"]} |
| command | `{about["command"].strip()}`: {about["rounds"]} round{"s" if about["rounds"] > 1 else ""} of {about["seconds"]} s |

## How it was measured

- Every cache has the same axum handler behind it. The handler answers from memory, so the bare handler is the ceiling of a layer.
- In each round every cache runs once, one after the other. A figure is the median of the rounds. *Spread* is the distance
  between the fastest and the slowest round, divided by the median.
- The load comes from `wrk` on the same machine, with two threads if it has more than one connection. It takes processor time
  from the caches; so compare caches with each other, and CPU before requests/s.
- *App CPU* is the time of the application process for one request, *back CPU* that of its database or Redis (user and system
  time from `/proc`). For nginx and Varnish, app CPU is that of the proxy and of the handler behind it together.
- Before a cache is measured, the page must be a hit with the right body: the handler is not called for it.
- Bodies are {BODIES[about["body"]]} The bodies of all keys of a size are equal.
- The 10,000 keys are asked for by Zipf's law (exponent 1). They are not measured with 256 KiB, which would be 2.5 GiB for each cache.
- The databases have a buffer pool of 1 GiB and `innodb_flush_log_at_trx_commit = 2`, Redis writes nothing to disk. All
  connections are TCP.
- ⚠ marks a cache that gave a wrong response to the probe, see [the rules](#rules).

## Targets

Computed in each round; *measured* is the median. With two Redis-backed layers, the better one counts.

{target_table(data)}
{noise}
{(pathlib.Path(__file__).parent / "missed.md").read_text()}
## Rules

What a probe of each cache saw. It asks for pages whose responses another request must not get. A cache that does less work
because it ignores a rule is not faster. The settings are those that each documentation recommends.

{table(["cache", "wrong"], probes, "---")}

## Hits

{hits(data)}

## Misses

200 connections, a handler that takes 20 ms, 16 KiB, every request with a new key. CPU includes the writing of what waited in
a queue at the end. *Stored*: the share of a sample that was a hit afterwards.

{misses(data)}

## Large bodies

32 connections ask for 1 KiB, each 5 ms after its last response. Beside them 4 connections ask for a large body, each 100 ms after
its last. p99 is that of the small ones.

{large(data)}

## Problems

{chr(10).join(problems) or "None."}
"""


COLOURS = {"none": "bare", "ours": "ours", "hand": "hand", "layer": "layer", "proxy": "proxy"}
LEGEND = {"ours": "this crate", "hand": "by hand", "layer": "other layers", "proxy": "proxies", "none": "no cache"}


def svg(data):
    data = Data(data)
    sizes = sorted({r["size"] for r in data.records if r["scenario"] == "hits"})
    bar, gap, left, width, top = 18, 5, 300, 900, 64
    parts, y = [], top
    for size in sizes:
        rates = {c["name"]: data.middle("rate", c["name"], "hits", size, 64) for c in data.contenders}
        longest = max([rate for rate in rates.values() if rate] or [1])
        parts.append(f'<text class="title" x="16" y="{y + 14}">{size_name(size)}</text>')
        y += 26
        for c in data.contenders:
            rate = rates[c["name"]]
            length = (width - left - 90) * (rate or 0) / longest
            mark = " ⚠" if c["wrong"] else ""
            said = f"{rate:,.0f}" if rate else "not measured"
            parts.append(
                f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(c["title"])}{mark}</text>'
                f'<rect class="{COLOURS[c["group"]]}" x="{left}" y="{y}" width="{length:.1f}" height="{bar}" rx="2"/>'
                f'<text x="{left + length + 6:.1f}" y="{y + 13}">{said}</text>')
            y += bar + gap
        y += 18
    keys, x = [], left
    for group, name in LEGEND.items():
        keys.append(f'<rect class="{COLOURS[group]}" x="{x}" y="34" width="12" height="12" rx="2"/>'
                    f'<text x="{x + 17}" y="45">{name}</text>')
        x += 110
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" role="img" aria-label="Requests a second of hits">
<style>
text {{ font: 12px system-ui, sans-serif; fill: #24292f }}
.title {{ font-weight: 600; font-size: 14px }}
.page {{ fill: #ffffff }} .bare {{ fill: #8c959f }} .ours {{ fill: #1f6feb }} .hand {{ fill: #b35900 }} .layer {{ fill: #8250df }} .proxy {{ fill: #1a7f37 }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #e6edf3 }}
  .page {{ fill: #0d1117 }} .bare {{ fill: #8b949e }} .ours {{ fill: #58a6ff }} .hand {{ fill: #f0883e }} .layer {{ fill: #bc8cff }} .proxy {{ fill: #3fb950 }}
}}
</style>
<rect class="page" width="{width}" height="{y}"/>
<text class="title" x="16" y="20">Requests a second, hits on one page, 64 connections (longer is better; ⚠ breaks a rule of HTTP caching)</text>
{chr(10).join(keys)}
{chr(10).join(parts)}
</svg>
"""
