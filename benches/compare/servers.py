"""The private servers and the applications: started in temporary directories on free ports of 127.0.0.1, ended with the script."""

import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / "target" / "compare" / "release" / "compare"
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port, path, headers=None, method="GET"):
    """One request on a connection of its own: status, fields (names in lower case), body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        body = response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body
    finally:
        connection.close()


def wait_for_port(port, process):
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{process.args} does not listen on {port}")


def stat(pid):
    """The fields of /proc/PID/stat after the name; None if there is no such process."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


def family(pid):
    """The process and all below it."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(entry.name)):
            parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def cpu(pids):
    """Seconds of processor time (user and system) that the processes have used."""
    return sum((int(fields[11]) + int(fields[12])) / TICKS for fields in map(stat, pids) if fields)


class Servers:
    """Everything that runs. `close` ends it all."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="tmc-compare."))
        self.processes = []
        self.pids, self.urls, self.versions = {}, {}, {}

    def spawn(self, command, log, env=None, stdin=subprocess.DEVNULL, stdout=None):
        """`setpriv`: however the script ends, the process is told to end too."""
        with open(self.dir / f"{log}.log", "ab") as file:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                stdin=stdin, stdout=stdout or file, stderr=file, env={**os.environ, **(env or {})},
                start_new_session=True, text=True)
        self.processes.append(process)
        return process

    def database(self, engine):
        if engine in self.pids:
            return
        subprocess.run([ROOT / "scripts" / "db", "install", engine], check=True)
        process = self.spawn([str(ROOT / "scripts" / "db"), "run", engine], engine,
                             env={"TMC_DB_ARGS": "--innodb-buffer-pool-size=1G"},
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        url, pid = process.stdout.readline().strip(), process.stdout.readline().split()
        if not url:
            raise RuntimeError(f"the private {engine} did not start")
        self.urls[engine], self.pids[engine] = url, int(pid[1])
        self.versions[engine] = subprocess.run(
            [ROOT / "scripts" / "db", "version", engine], capture_output=True, text=True).stdout.strip()

    def redis(self):
        if "redis" in self.pids:
            return
        port = free_port()
        process = self.spawn(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                              "--appendonly", "no", "--dir", str(self.dir)], "redis")
        wait_for_port(port, process)
        self.urls["redis"], self.pids["redis"] = f"redis://127.0.0.1:{port}", process.pid

    def flush_redis(self, number):
        with socket.create_connection(("127.0.0.1", int(self.urls["redis"].rsplit(":", 1)[1]))) as connection:
            connection.sendall(f"SELECT {number}\r\nFLUSHDB\r\n".encode())
            answers = b""
            while answers.count(b"\r\n") < 2:
                answers += connection.recv(64)

    def application(self, name, back, number):
        """An application, with a database of its own on its server."""
        env = {}
        if back in ("mariadb", "mysql"):
            self.database(back)
            env["DATABASE_URL"] = self.urls[back]
        if back == "redis":
            self.redis()
            env["REDIS_URL"] = f"{self.urls['redis']}/{number}"
        process = self.spawn([str(BINARY), name], name, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        port = process.stdout.readline().strip()
        if not port:
            log = (self.dir / f"{name}.log").read_text()
            raise RuntimeError(f"the application {name} did not start: {log[-500:]}")
        return process, int(port)

    def nginx(self, origin):
        port, home = free_port(), self.dir / "nginx"
        home.mkdir()
        user = "user root;" if os.getuid() == 0 else ""
        paths = "".join(f"{kind}_temp_path {home}/{kind};" for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (home / "conf").write_text(f"""
            {user} daemon off; worker_processes 2; pid {home}/pid; error_log {home}/error;
            events {{ worker_connections 4096; }}
            http {{
              access_log off; {paths} sendfile on; tcp_nopush on; keepalive_requests 1000000000;
              open_file_cache max=20000;
              proxy_cache_path {home}/cache levels=1:2 keys_zone=pages:64m max_size=4g inactive=1d use_temp_path=off;
              upstream handler {{ server 127.0.0.1:{origin}; keepalive 64; }}
              server {{
                listen 127.0.0.1:{port} backlog=4096;
                location / {{
                  proxy_pass http://handler; proxy_http_version 1.1;
                  proxy_set_header Connection ""; proxy_set_header Host $host;
                  proxy_cache pages; proxy_cache_key $host$request_uri; proxy_cache_lock on;
                }}
              }}
            }}""")
        process = self.spawn(["nginx", "-e", f"{home}/error", "-p", str(home), "-c", str(home / "conf")], "nginx")
        wait_for_port(port, process)
        return process, port

    def varnish(self, origin):
        port, home = free_port(), self.dir / "varnish"
        process = self.spawn(["varnishd", "-F", "-n", str(home), "-j", "none", "-a", f"127.0.0.1:{port}",
                              "-b", f"127.0.0.1:{origin}", "-s", "malloc,4g", "-t", "3600"], "varnish")
        wait_for_port(port, process)
        return process, port

    def end(self, process):
        if process.stdin:
            process.stdin.close()
        if process.poll() is None:
            try:
                process.wait(0 if not process.stdin else 10)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if process in self.processes:
            self.processes.remove(process)

    def close(self):
        for process in reversed(list(self.processes)):
            self.end(process)
        shutil.rmtree(self.dir, ignore_errors=True)
