"""What is compared."""

from dataclasses import dataclass, field


@dataclass
class Contender:
    name: str
    title: str
    group: str  # "none", "ours", "hand", "layer", "proxy"
    back: str = ""  # the server that it needs
    number: int = 0  # of its Redis database
    # while it runs
    process: object = None  # what answers
    port: int = 0
    calls_port: int = 0  # of the application that counts the calls of the handler
    pids: list = field(default_factory=list)  # of the application, and of a proxy in front
    warm: set = field(default_factory=set)
    wrong: list = field(default_factory=list)
    problems: list = field(default_factory=list)


def all_contenders():
    return [
        Contender("bare", "bare handler", "none"),
        Contender("memory", "layer on MemoryStore", "ours"),
        Contender("tiered", "layer on Tiered (MariaDB)", "ours", "mariadb"),
        Contender("tiered-strict", "layer on Tiered, Strict (MariaDB)", "ours", "mariadb"),
        Contender("store-mariadb", "layer on MySqlStore, MariaDB", "ours", "mariadb"),
        Contender("store-mariadb-plain", "layer on MySqlStore, MariaDB, uncompressed", "ours", "mariadb"),
        Contender("store-mysql", "layer on MySqlStore, MySQL", "ours", "mysql"),
        Contender("statement-mariadb", "a statement a request, pool of 10, MariaDB", "hand", "mariadb"),
        Contender("statement-mysql", "a statement a request, pool of 10, MySQL", "hand", "mysql"),
        Contender("redis-multiplexed", "Redis by hand, multiplexed", "hand", "redis", 1),
        Contender("redis-pool", "Redis by hand, pool of 10 (bb8)", "hand", "redis", 2),
        Contender("tower-http-cache-memory", "tower-http-cache, memory", "layer"),
        Contender("tower-http-cache-redis", "tower-http-cache, Redis", "layer", "redis", 3),
        Contender("hitbox-memory", "hitbox-tower, moka", "layer"),
        Contender("hitbox-redis", "hitbox-tower, Redis", "layer", "redis", 4),
        Contender("axum-response-cache", "axum-response-cache", "layer"),
        Contender("http-cache-tower-server", "http-cache-tower-server, moka", "layer"),
        Contender("nginx", "nginx proxy_cache, 2 workers", "proxy"),
        Contender("varnish", "Varnish", "proxy"),
    ]


# Those of the tests of misses and of large bodies.
MISSES = ["bare", "memory", "tiered", "store-mariadb", "store-mariadb-plain", "store-mysql", "redis-multiplexed",
          "tower-http-cache-memory", "tower-http-cache-redis", "hitbox-redis"]
LARGE = ["bare", "memory", "tiered", "store-mariadb", "store-mariadb-plain", "store-mysql", "tower-http-cache-redis", "hitbox-redis"]
REDIS_LAYERS = ["tower-http-cache-redis", "hitbox-redis"]
