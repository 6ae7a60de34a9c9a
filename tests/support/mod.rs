//! Databases for the tests: a fresh one on a server that all tests of this process share ([`database`]), or a private
//! server that a test may kill ([`own_server`]).
//!
//! The servers are children of `scripts/db run`, which ends them when its standard input is closed. So they end when
//! this process ends, in whatever way.
#![allow(dead_code, unreachable_pub, unused_imports)] // several test binaries share this module, and none uses all of it
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, MySqlConnection};

mod process;
mod sql;
mod traced;
mod waiting;

pub use process::{Process, example};
pub use sql::{deadlocks, execute, kill_sessions, number, sessions, status};
pub use traced::Traced;
pub use waiting::{PATIENCE, eventually, eventually_on_this_thread};

/// A fresh, empty database with its own name on the shared server. The server is that of `TEST_DATABASE_URL`, if set
/// (the URL's database name is ignored). Otherwise, one is started for this process.
///
/// # Panics
///
/// If there is no server. A test is never skipped.
pub async fn database() -> TestDatabase {
    let server = blocking(shared_server).await;
    TestDatabase::create(server).await
}

/// A private server for a test that kills or freezes it: `mariadb` or `mysql`. The default is `TEST_ENGINE`, or else
/// `mariadb`.
///
/// # Panics
///
/// If the server does not start.
pub async fn own_server(engine: Option<&str>) -> OwnServer {
    let engine = engine.map_or_else(self::engine, str::to_owned);
    blocking(move || OwnServer::start(script(), &engine)).await.unwrap_or_else(|e| panic!("{e}"))
}

/// A private server with its own disk of this many megabytes. The disk is a tmpfs in a mount namespace of the server,
/// and ends with it. `None` if this machine does not permit the mount.
///
/// # Panics
///
/// If the server does not start.
pub async fn server_on_a_small_disk(megabytes: u32) -> Option<OwnServer> {
    blocking(move || {
        let disk = std::env::temp_dir().join(format!("tmc-disk.{}", std::process::id()));
        std::fs::create_dir_all(&disk).expect("a directory to mount on");
        let mount = format!("mount -t tmpfs -o size={megabytes}m tmpfs \"$TMPDIR\" && exec \"$@\"");
        let within = |namespace: &[&str], run: &str| {
            let mut command = Command::new("unshare");
            command.args(namespace).args(["sh", "-c", &mount, "sh", run]).env("TMPDIR", &disk);
            command
        };
        let namespaces: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
        let mounts = |namespace: &&&[&str]| {
            let mut trial = within(namespace, "true");
            trial.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let namespace = namespaces.iter().find(mounts)?;
        let server = OwnServer::start(within(namespace, SCRIPT), &engine());
        let mut server = server.unwrap_or_else(|e| panic!("{e}"));
        server.mounted_on = Some(disk.clone());
        Some(server)
    })
    .await
}

/// A private server with more arguments.
///
/// # Panics
///
/// If the server does not start.
pub async fn own_server_with(arguments: &str) -> OwnServer {
    let mut command = script();
    command.env("TMC_DB_ARGS", arguments);
    let start = move || OwnServer::start(command, &engine());
    blocking(start).await.unwrap_or_else(|e| panic!("{e}"))
}

/// A private server with more environment variables.
///
/// # Panics
///
/// If the server does not start.
pub async fn own_server_under(environment: [(&'static str, PathBuf); 2]) -> OwnServer {
    let mut command = script();
    command.envs(environment);
    let start = move || OwnServer::start(command, &engine());
    blocking(start).await.unwrap_or_else(|e| panic!("{e}"))
}

/// A private MySQL that can encrypt tables.
///
/// # Panics
///
/// If the server does not start.
pub async fn own_mysql_with_keys() -> OwnServer {
    let mut command = script();
    command.env("TMC_DB_KEYRING", "1");
    let start = move || OwnServer::start(command, "mysql");
    blocking(start).await.unwrap_or_else(|e| panic!("{e}"))
}

/// Whether this variable asks for the full size of a test.
pub fn is_full(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|size| size == "full")
}

/// The value of `TEST_ENGINE`, or else `mariadb`.
pub fn engine() -> String {
    std::env::var("TEST_ENGINE").unwrap_or_else(|_| "mariadb".to_owned())
}

/// A database that is dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    url: String,
    name: String,
    server: String,
}

impl TestDatabase {
    async fn create(server: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "tmc_test_{}_{}_{:08x}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed),
            RandomState::new().build_hasher().finish() as u32,
        );
        let mut connection = connect(server).await;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap_or_else(|e| panic!("cannot create the test database {name}: {e}"));
        let _ = connection.close().await;
        Self { url: with_database(server, &name), name, server: server.to_owned() }
    }

    /// The URL of this database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The name of this database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A separate connection, with which a test reads what the store has done.
    pub async fn connection(&self) -> MySqlConnection {
        connect(&self.url).await
    }
}

impl Drop for TestDatabase {
    /// Best effort. In its own thread, because this may run inside a runtime or while unwinding.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let _ = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let drop = async {
                    let mut connection = options(&server).connect().await?;
                    // a transaction that the test left open holds a metadata lock
                    sqlx::raw_sql(AssertSqlSafe(format!(
                        "SET lock_wait_timeout = 2; DROP DATABASE IF EXISTS {name}"
                    )))
                    .execute(&mut connection)
                    .await?;
                    connection.close().await
                };
                let _ = tokio::time::timeout(Duration::from_secs(5), drop).await;
            });
            std::io::Result::Ok(())
        })
        .join();
    }
}

/// A private server. The server and its directory are removed with this value.
#[derive(Debug)]
pub struct OwnServer {
    script: Child,
    /// The server lives until this is closed. Taken in `drop`.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    url: String,
    pid: u32,
    dir: PathBuf,
    socket: PathBuf,
    /// The directory of its disk, if it has its own.
    mounted_on: Option<PathBuf>,
}

impl OwnServer {
    fn start(mut script: Command, engine: &str) -> Result<Self, String> {
        let mut script = script
            .args(["run", engine])
            .env("TMC_DB_KEEP", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot run scripts/db: {e}"))?;
        let stdin = script.stdin.take();
        let mut stdout = BufReader::new(script.stdout.take().expect("stdout is piped"));
        let mut word = |prefix| {
            line(&mut stdout, prefix).ok_or_else(|| {
                format!("scripts/db could not start {engine}; it says why on stderr")
            })
        };
        let (url, pid, dir, socket) = (word("")?, word("pid ")?, word("dir ")?, word("socket ")?);
        Ok(Self {
            script,
            stdin,
            stdout,
            url,
            pid: pid.parse().expect("a process id"),
            dir: dir.into(),
            socket: socket.into(),
            mounted_on: None,
        })
    }

    /// The URL of its database `cache`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its directory, as this process reaches it: the server may have its own mount there.
    pub fn dir_from_outside(&self) -> PathBuf {
        let inside = self.dir.strip_prefix("/").unwrap_or(&self.dir);
        // the script is in the same namespace, and outlives the server
        Path::new(&format!("/proc/{}/root", self.script.id())).join(inside)
    }

    /// Whether the server runs.
    pub fn is_alive(&self) -> bool {
        alive(self.pid)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A connection to its database `cache`.
    pub async fn connection(&self) -> MySqlConnection {
        connect(&self.url).await
    }

    /// Kills the server with SIGKILL, and waits until it is dead.
    pub fn kill_9(&self) {
        signal(self.pid, "KILL");
        eventually_on_this_thread("the server is dead", || !alive(self.pid));
    }

    /// Freezes the server (SIGSTOP): it accepts connections, and answers nothing. Waits until all its threads stand
    /// still.
    pub fn stop(&self) {
        signal(self.pid, "STOP");
        eventually_on_this_thread("the server is frozen", || {
            let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid));
            threads.is_ok_and(|threads| threads.flatten().all(|t| state(&t.path()) == Some('T')))
        });
    }

    /// Thaws the server (SIGCONT).
    pub fn cont(&self) {
        signal(self.pid, "CONT");
    }

    /// Starts the server again after [`kill_9`](Self::kill_9), on the same port and data. Waits until it answers.
    pub fn restart(&mut self) {
        let stdin = self.stdin.as_mut().expect("taken in drop only");
        stdin.write_all(b"start\n").expect("scripts/db runs");
        let pid = line(&mut self.stdout, "pid ").expect("the server starts again");
        self.pid = pid.parse().expect("a process id");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // its data is not needed, so it is killed; a frozen server could not end in order anyway
        if alive(self.pid) {
            signal(self.pid, "KILL");
        }
        drop(self.stdin.take());
        let _ = self.script.wait();
        if let Some(disk) = &self.mounted_on {
            let _ = std::fs::remove_dir(disk);
        }
    }
}

/// The URL of the shared server, without a database.
fn shared_server() -> &'static str {
    // a static is never dropped: its pipe is closed when the process ends
    static SERVER: OnceLock<Result<(String, Option<OwnServer>), String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        if let Ok(url) = std::env::var("TEST_DATABASE_URL") {
            return Ok((with_database(&url, ""), None));
        }
        let engines = match std::env::var("TEST_ENGINE") {
            Ok(engine) => vec![engine],
            Err(_) => vec!["mariadb".to_owned(), "mysql".to_owned()],
        };
        let Some(engine) = engines.iter().find(|engine| installed(engine)) else {
            return Err(format!(
                "these tests need a database and there is no {} server on this machine: run \
                 `scripts/test`, which installs one, or set TEST_DATABASE_URL",
                engines.join(" or "),
            ));
        };
        let server = OwnServer::start(script(), engine)?;
        Ok((with_database(&server.url, ""), Some(server)))
    });
    match server {
        Ok((url, _)) => url,
        Err(e) => panic!("{e}"),
    }
}

fn installed(engine: &str) -> bool {
    script()
        .args(["which", engine])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/db");

fn script() -> Command {
    Command::new(SCRIPT)
}

/// The next line, without its prefix.
fn line(from: &mut impl BufRead, prefix: &str) -> Option<String> {
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    Some(line.strip_suffix('\n')?.strip_prefix(prefix)?.to_owned())
}

/// Through the shell, because the crate forbids unsafe code and some machines have no `kill` program.
fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status();
    assert!(status.is_ok_and(|s| s.success()), "cannot send {name} to the server");
}

/// Whether the process runs: it exists and is no zombie.
fn alive(pid: u32) -> bool {
    state(Path::new(&format!("/proc/{pid}"))).is_some_and(|state| state != 'Z')
}

/// The kernel's letter for the state of a process or thread.
fn state(proc: &Path) -> Option<char> {
    let stat = std::fs::read_to_string(proc.join("stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// `url` with another database.
fn with_database(url: &str, name: &str) -> String {
    let authority = url.find("://").expect("a URL has a scheme") + 3;
    let path = url[authority..].find(['/', '?']).map_or(url.len(), |at| authority + at);
    let query = url[path..].find('?').map_or(url.len(), |at| path + at);
    format!("{}/{name}{}", &url[..path], &url[query..])
}

/// The connect options for the server of `url`, with its database.
fn options(url: &str) -> MySqlConnectOptions {
    url.parse().unwrap_or_else(|e| panic!("the URL of the test server is not one: {e}"))
}

async fn connect(url: &str) -> MySqlConnection {
    options(url)
        .connect()
        .await
        .unwrap_or_else(|e| panic!("cannot connect to the test server: {e}"))
}

/// Runs blocking code without blocking the test's runtime, and without letting a paused clock advance.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(f).await {
        Ok(value) => value,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
