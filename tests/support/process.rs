//! Examples that run as processes of their own.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

/// The path of a built example; `cargo test` builds all examples.
pub fn example(name: &str) -> PathBuf {
    // target/<profile>/deps/<this test> is next to target/<profile>/examples/<name>
    let this = std::env::current_exe().expect("a path");
    let profile = this.parent().and_then(|deps| deps.parent()).expect("a folder");
    let path = profile.join("examples").join(name);
    assert!(path.exists(), "the examples are not built: run `cargo build --examples` first");
    path
}

/// A server that runs as a process. It is killed when this value is dropped.
pub struct Process {
    pub child: Child,
    /// Reads what it prints after its address, so that it does not block.
    output: Option<JoinHandle<String>>,
    /// Where it listens, with `http://`.
    pub address: String,
}

impl Process {
    /// Starts the process. Its first line must say where it listens.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let says = ["listening on ", "listens on "];
        let address = says.iter().find_map(|says| line.split_once(says)).map(|(_, rest)| rest);
        let address = address.and_then(|rest| rest.split([';', '\n']).next());
        let address = address.filter(|address| address.starts_with("http://"));
        let address = address.unwrap_or_else(|| panic!("not where it listens: {line}")).to_owned();
        let output = thread::spawn(move || {
            let mut rest = String::new();
            let _ = output.read_to_string(&mut rest);
            rest
        });
        Self { child, output: Some(output), address }
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        self.address.trim_start_matches("http://")
    }

    /// Waits until it has ended, which must be a success. Returns what it printed after its address.
    pub fn ended(mut self) -> String {
        assert!(self.child.wait().expect("an end").success());
        self.output.take().expect("once").join().expect("no panic")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
