//! Where Postgres' programs are, as whom they run, and a fresh data directory.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::TestDir;
use crate::dir::target_dir;

/// The programs of one Postgres version, and the user that may run its server.
#[derive(Clone, Debug)]
pub(super) struct Install {
    bin: PathBuf,
    /// Where its clients are: some come without.
    clients: PathBuf,
    /// Whether its programs are in the directory of one server, and go with it.
    is_copied: bool,
    /// The other user, because a server refuses to run as root.
    user: Option<(u32, u32)>,
}

impl Install {
    /// `WALPURGE_PG_BIN`, else the newest of Debian's versions, else what is in `PATH`.
    pub(super) fn find() -> Result<Self> {
        let asked = std::env::var_os("WALPURGE_PG_BIN").map(PathBuf::from);
        let bin = asked.or_else(bin_dir).context(
            "no Postgres server found: run scripts/install.sh, or set WALPURGE_PG_BIN to the \
             directory that holds `postgres` and `initdb`",
        )?;
        Self::of(bin)
    }

    /// The same programs for a server in `dir`, which outlives the one that has them now.
    pub(super) fn for_another(&self, dir: &Path) -> Result<Self> {
        if !self.is_copied {
            return Ok(self.clone());
        }
        let server = self.bin.parent().context("no directory")?;
        Self::copied_from(server, dir)
    }

    /// Another version, whose programs are copied into `dir`: its user may have no way to where
    /// they are.
    pub(super) fn copied(version: u32, dir: &Path) -> Result<Self> {
        Self::copied_from(&crate::install::postgres(version)?, dir)
    }

    fn copied_from(server: &Path, dir: &Path) -> Result<Self> {
        copy(server, &dir.join("server"))?;
        Ok(Self { is_copied: true, ..Self::of(dir.join("server/bin"))? })
    }

    fn of(bin: PathBuf) -> Result<Self> {
        let user = if rustix::process::geteuid().is_root() { Some(server_user()?) } else { None };
        let clients = match bin.join("psql").exists() {
            true => bin.clone(),
            false => bin_dir().context("no psql: run scripts/install.sh")?,
        };
        Ok(Self { bin, clients, is_copied: false, user })
    }

    /// Whether it comes with a client.
    pub(super) fn has(&self, client: &str) -> bool {
        self.bin.join(client).exists()
    }

    /// A program that runs as whoever runs the test, without libpq's environment.
    pub(super) fn client(&self, program: &str) -> Command {
        self.without_environment(self.clients.join(program))
    }

    fn without_environment(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.env("PGCONNECT_TIMEOUT", "10");
        command
    }

    /// A program that runs as the server's user.
    pub(super) fn server(&self, program: &str) -> Command {
        let mut command = self.without_environment(self.bin.join(program));
        // The server cannot read a directory of root's, and initdb looks at where it starts.
        command.current_dir("/").env("LC_ALL", "C");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives `path` to the server's user.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.user else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} to the server's user", path.display()))
    }

    /// Writes a file that only the server's user reads.
    pub(super) fn write_private(&self, path: &Path, content: &[u8]) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(path, content)
            .with_context(|| format!("cannot write {}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        self.give(path)
    }

    /// Makes the data directory `data` by copying a template, which the first caller makes:
    /// initdb takes a second or two of a processor, a copy some hundredths.
    pub(super) fn make_data_dir(&self, data: &Path, initdb_args: &[String]) -> Result<()> {
        let template = self.template(initdb_args)?;
        copy(&template, data)
    }

    fn template(&self, initdb_args: &[String]) -> Result<PathBuf> {
        let version = run(self.server("postgres").arg("--version"))?;
        let version = version.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
        let uid = self.user.map_or(rustix::process::geteuid().as_raw(), |(uid, _)| uid);
        let mut name = format!("testkit-template-{version}-{uid}");
        for arg in initdb_args {
            name.push('-');
            name.extend(arg.chars().filter(char::is_ascii_alphanumeric));
        }
        let target = target_dir();
        std::fs::create_dir_all(&target)?;
        let template = target.join(&name);

        let lock = File::create(target.join(format!("{name}.lock")))?;
        flock(&lock, FlockOperation::LockExclusive).context("cannot lock the template")?;
        if template.exists() {
            return Ok(template);
        }
        // The server's user may have no way into the target directory, so the work is done
        // elsewhere; and the rename makes a template that is there a complete one.
        let work = TestDir::new("initdb");
        self.give(work.path())?;
        let data = work.join("data");
        self.initdb(&data, initdb_args)?;
        let unfinished = target.join(format!("{name}.new"));
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)?;
        }
        copy(&data, &unfinished)?;
        std::fs::rename(&unfinished, &template)?;
        Ok(template)
    }

    fn initdb(&self, data: &Path, args: &[String]) -> Result<()> {
        let mut initdb = self.server("initdb");
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        initdb.args(["--no-sync", "--no-instructions"]).args(args).arg("-D").arg(data);
        run(&mut initdb)?;

        // The newest minor versions load an output plugin only if it is in this list, and
        // the others refuse to start with a setting that they do not know.
        let setting = "output_plugin_libraries";
        if run(self.server("postgres").args(["-C", setting, "-D"]).arg(data)).is_ok() {
            let auto = data.join("postgresql.auto.conf");
            let mut text = std::fs::read_to_string(&auto)?;
            text.push_str(&format!("{setting} = 'pgoutput, test_decoding, wal2json'\n"));
            std::fs::write(&auto, text)?;
        }
        Ok(())
    }
}

/// Runs `command` to its end and returns its output.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies a directory with owners and modes.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["-a", "--reflink=auto", "--"]).arg(from).arg(to)).map(drop)
}

/// The newest of Debian's versions, else what is in `PATH`.
fn bin_dir() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
            let bin = path.join("bin");
            bin.join("initdb").exists().then_some((version, bin))
        })
        .max();
    if let Some((_, bin)) = newest {
        return Some(bin);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|dir| dir.join("initdb").exists())
}

/// The user and group of `postgres`, else of `nobody`.
fn server_user() -> Result<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    for wanted in ["postgres", "nobody"] {
        for line in passwd.lines() {
            let fields: Vec<_> = line.split(':').collect();
            if let [name, _, uid, gid, ..] = fields[..]
                && name == wanted
            {
                return Ok((uid.parse()?, gid.parse()?));
            }
        }
    }
    bail!("neither a user `postgres` nor `nobody` to run a server as, which refuses to be root")
}
