//! A process that reads through a cache.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use testkit::TestDir;
use testkit::install;

/// In what a reader is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Python,
    TypeScript,
    Go,
}

/// Where the readers of all languages are.
pub fn readers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/readers")
}

/// The readers of one language, ready to run.
pub struct Built {
    command: Vec<PathBuf>,
    _dir: TestDir,
}

impl Built {
    /// Builds what has to be built.
    #[track_caller]
    pub fn new(language: Language) -> Self {
        let dir = TestDir::new("readers");
        let drivers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/readers");
        let command = match language {
            Language::Python => {
                let python = install::python().unwrap().join("bin/python");
                vec![python, drivers.join("driver.py"), readers().join("python")]
            }
            Language::TypeScript => {
                copy(&readers().join("typescript"), dir.path());
                std::fs::copy(drivers.join("driver.ts"), dir.join("driver.ts")).unwrap();
                let packages = install::node().unwrap().join("node_modules");
                std::os::unix::fs::symlink(&packages, dir.join("node_modules")).unwrap();
                std::fs::write(dir.join("tsconfig.json"), TSCONFIG).unwrap();
                let mut compiler = Command::new("node");
                compiler.arg(packages.join("typescript/bin/tsc"));
                run(compiler.arg("--project").arg(dir.path()));
                vec![PathBuf::from("node"), dir.join("made/driver.js")]
            }
            Language::Go => {
                let path = install::go_path().unwrap();
                copy(&readers().join("go"), &dir.join("src/readers"));
                let mut compiler = Command::new("go");
                compiler.arg("build").arg("-o").arg(dir.join("driver"));
                compiler.arg(drivers.join("driver.go"));
                compiler.env("GO111MODULE", "off").env("GOFLAGS", "").env("GOCACHE", dir.join("c"));
                compiler.env("GOPATH", format!("{}:{}", dir.path().display(), path.display()));
                run(&mut compiler);
                vec![dir.join("driver")]
            }
        };
        Built { command, _dir: dir }
    }

    /// Starts a reader of one style, which comes to Redis as the user `app`, by this port.
    #[track_caller]
    pub fn start(&self, style: &str, port: u16) -> Reader {
        let mut command = Command::new(&self.command[0]);
        let url = format!("redis://app:geheim@127.0.0.1:{port}/0");
        command.args(&self.command[1..]).arg(url).arg(style);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.command[0]));
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Reader { child, input, output: BufReader::new(output) }
    }
}

/// Strict, since whoever copies a reader may be.
const TSCONFIG: &str = r#"{
  "compilerOptions": {
    "target": "es2022", "lib": ["es2022"], "module": "commonjs", "types": ["node"],
    "strict": true, "esModuleInterop": true, "skipLibCheck": true, "noEmitOnError": true,
    "outDir": "made"
  },
  "files": ["driver.ts"]
}"#;

#[track_caller]
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// A running reader; ends with its input.
pub struct Reader {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What a reader says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// It wants this from Postgres.
    Load(String),
    /// The value that was asked for.
    Value(String),
}

impl Reader {
    /// Asks for a value: what it says to that.
    #[track_caller]
    pub fn ask(&mut self, key: &str) -> Said {
        writeln!(self.input, "get {key}").unwrap();
        self.said()
    }

    /// Gives it what it wants from Postgres: what it says to that.
    #[track_caller]
    pub fn answer(&mut self, row: &str) -> Said {
        writeln!(self.input, "{row}").unwrap();
        self.said()
    }

    /// A value, and whether it was read from Postgres, by `load`.
    #[track_caller]
    pub fn get(&mut self, key: &str, load: impl Fn(&str) -> String) -> (String, bool) {
        match self.ask(key) {
            Said::Value(value) => (value, false),
            Said::Load(wanted) => match self.answer(&load(&wanted)) {
                Said::Value(value) => (value, true),
                Said::Load(_) => panic!("it reads twice"),
            },
        }
    }

    #[track_caller]
    fn said(&mut self) -> Said {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        match line.trim_end_matches('\n').split_once(' ') {
            Some(("load", key)) => Said::Load(key.to_owned()),
            Some(("value", value)) => Said::Value(value.to_owned()),
            _ => panic!("it says {line:?}"),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
