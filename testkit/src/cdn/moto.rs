//! moto's CloudFront, and the requests of Amazon's own library for Python.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::exchange::exchange;
use super::server::Request;
use crate::install::python;
use crate::process::{Process, Signal};
use crate::{TestDir, free_port};

/// How long a start may take: it imports a lot.
const START_WITHIN: Duration = Duration::from_secs(120);

/// Asks for an invalidation with botocore, and then for its state.
const ASK: &str = r"
import json, sys
import botocore.session

given = json.load(sys.stdin)
client = botocore.session.get_session().create_client(
    'cloudfront', region_name='us-east-1', endpoint_url=given['endpoint'],
    aws_access_key_id='AKIDEXAMPLE', aws_secret_access_key='not-a-secret')
items = given['items']
made = client.create_invalidation(
    DistributionId=given['distribution'],
    InvalidationBatch={
        'Paths': {'Quantity': len(items), 'Items': items},
        'CallerReference': given['reference']})
client.get_invalidation(
    DistributionId=given['distribution'], Id=made['Invalidation']['Id'])
";

/// A server that speaks for all of Amazon's services, as others have read their documentation.
#[derive(Debug)]
pub struct Moto {
    // Before the directory, so that it ends before its log goes.
    _server: Process,
    port: u16,
    _dir: TestDir,
}

impl Moto {
    /// Starts one on a free port; makes its Python environment where that is missing.
    ///
    /// # Panics
    ///
    /// When it does not start; the message holds its log.
    #[track_caller]
    pub fn start() -> Self {
        match Self::try_start() {
            Ok(moto) => moto,
            Err(error) => panic!("{error:#}"),
        }
    }

    fn try_start() -> Result<Self> {
        let python = python()?;
        let (dir, port) = (TestDir::new("moto"), free_port());
        let mut command = Command::new(python.join("bin/python"));
        command.arg(python.join("bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let mut server = Process::spawn("moto", command, &dir.join("log"), Signal::TERM)?;
        let page = Request {
            method: "GET".to_owned(),
            target: "/moto-api/data.json".to_owned(),
            ..Request::default()
        };
        let ready = crate::holds_within(START_WITHIN, || {
            !server.is_running() || exchange(port, &page).is_ok()
        });
        ensure!(ready && server.is_running(), "moto did not start: {}", server.report());
        Ok(Self { _server: server, port, _dir: dir })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Lets botocore ask the CloudFront at `endpoint` for an invalidation, and for its state.
///
/// # Panics
///
/// When that fails, or its Python environment cannot be made.
#[track_caller]
pub fn ask_with_botocore(endpoint: &str, distribution: &str, reference: &str, items: &[String]) {
    let given = json!({
        "endpoint": endpoint, "distribution": distribution,
        "reference": reference, "items": items,
    });
    if let Err(error) = run(ASK, &given.to_string()) {
        panic!("{error:#}");
    }
}

fn run(script: &str, input: &str) -> Result<()> {
    let mut command = Command::new(python()?.join("bin/python"));
    command.args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start python")?;
    let mut stdin = child.stdin.take().context("no input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
