//! The command line.

use std::time::Duration;

use http::Uri;
use http::uri::Authority;

pub(crate) const USAGE: &str = "\
Usage: gateway --origin URL [--listen ADDR] [--database URL] [--timeout SECONDS]
               [--idle SECONDS] [--connections NUMBER] [--debug]

A caching reverse proxy: it serves stored responses if that is allowed, and asks the origin for all others.

  --origin URL        where requests are sent, such as http://127.0.0.1:8000 (no TLS, no path)
  --listen ADDR       the address to listen on; port 0: any free port (default: 127.0.0.1:8080)
  --database URL      store in a table there, such as mysql://user:password@127.0.0.1/shop
                      (default: 256 MiB in the memory of this process)
  --timeout SECONDS   how long the origin may take to begin its response (default: 30)
  --idle SECONDS      how long a connection may be open without a request (default: 30)
  --connections N     how many connections may be open; if there are more, the gateway closes the one that
                      has been idle for the longest (default: a third of the process's limit on open files)
  --debug             show keys and reasons in Cache-Status
  --help              print this
";

/// The settings from the command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) listen: String,
    pub(crate) origin: Authority,
    pub(crate) database: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) idle: Duration,
    pub(crate) connections: usize,
    pub(crate) debug: bool,
}

impl Arguments {
    /// Reads the arguments after the program's name. `None` for `--help`.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let (mut listen, mut origin, mut database) = (None, None, None);
        let (mut timeout, mut idle, mut connections, mut debug) = (None, None, None, false);
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            // `--name value` and `--name=value`
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let setting = match name {
                "--help" | "-h" => return Ok(None),
                "--debug" if attached.is_none() => {
                    debug = true;
                    continue;
                }
                "--debug" => return Err("--debug takes no value".to_owned()),
                "--listen" => &mut listen,
                "--origin" => &mut origin,
                "--database" => &mut database,
                "--timeout" => &mut timeout,
                "--idle" => &mut idle,
                "--connections" => &mut connections,
                _ => return Err(format!("unknown argument '{argument}'")),
            };
            let value = attached.or_else(|| arguments.next());
            let value = value.filter(|value| !value.is_empty() && !value.starts_with("--"));
            let value = value.ok_or_else(|| format!("{name} needs a value"))?;
            if setting.replace(value).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        let origin = origin.ok_or("--origin is missing")?;
        Ok(Some(Self {
            listen: listen.unwrap_or_else(|| "127.0.0.1:8080".to_owned()),
            origin: authority(&origin)?,
            database,
            timeout: seconds("--timeout", timeout.as_deref().unwrap_or("30"))?,
            idle: seconds("--idle", idle.as_deref().unwrap_or("30"))?,
            connections: connections
                .map_or_else(|| Ok(most_connections()), |value| number(&value))?,
            debug,
        }))
    }
}

/// The authority of an origin's URL.
fn authority(url: &str) -> Result<Authority, String> {
    let wrong = |why| format!("--origin '{url}' {why}");
    let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("does not begin with http://"));
    }
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        return Err(wrong("has a path; give only http://host or http://host:port"));
    }
    match uri.into_parts().authority {
        Some(authority) if !authority.as_str().contains('@') => Ok(authority),
        _ => Err(wrong("is not http://host or http://host:port")),
    }
}

/// A third of the files that this process may open. Each connection may need a second one to the origin, and the rest is for
/// the database.
fn most_connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    // on Linux, the value is a number or `unlimited`; other systems allow at least 256 files
    let files = match soft {
        Some("unlimited") => usize::MAX,
        soft => soft.and_then(|soft| soft.parse().ok()).unwrap_or(256),
    };
    (files / 3).clamp(1, 10_000)
}

fn number(value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("--connections '{value}' is not a number over 0"))
}

fn seconds(name: &str, value: &str) -> Result<Duration, String> {
    let seconds = value.parse().ok().filter(|seconds| *seconds > 0.0 && *seconds <= 86_400.0);
    let seconds = seconds.ok_or_else(|| format!("{name} '{value}' is not 0 < SECONDS <= 86400"));
    seconds.map(Duration::from_secs_f64)
}
