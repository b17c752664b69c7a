//! Who is measured, and from where: a broker that is there, or a server of our own.

use super::JobError;
use crate::cli::{Cli, Mode};
use crate::client;
use crate::embedded::{self, Embedded};
use crate::exec::{ServerMeter, cores};
use crate::report::TargetKind;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A directory that is removed when it is dropped.
#[derive(Debug)]
pub(super) struct TemporaryDir(pub(super) PathBuf);

impl TemporaryDir {
    fn create(path: PathBuf) -> Result<Self, JobError> {
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err(JobError::File { path, error }),
        }
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("kariz-loadgen: {} is left behind: {error}", self.0.display());
        }
    }
}

/// Who is measured, and from where.
pub(super) struct Host {
    pub(super) kind: TargetKind,
    pub(super) address: SocketAddr,
    pub(super) server_cores: Vec<u32>,
    pub(super) load_cores: Vec<u32>,
    // Before the directory: the server stops while its files are there.
    embedded: Option<Embedded>,
    pub(super) data: Option<TemporaryDir>,
}

impl Host {
    /// Starts a server, unless the command line names one.
    ///
    /// # Errors
    /// [`JobError::Usage`], [`JobError::Client`], [`JobError::File`] or [`JobError::Embedded`].
    pub(super) fn find(cli: &Cli, run: u64) -> Result<Self, JobError> {
        let (server_half, load_half) = cores::halves(&cores::available());
        if let Some(brokers) = &cli.brokers {
            let kind = if cli.raw { TargetKind::Raw } else { TargetKind::Broker };
            let first = brokers.split(',').next().unwrap_or(brokers);
            let address = client::resolve(first)?;
            // A broker on this machine needs cores, too.
            let free = if address.ip().is_loopback() { load_half } else { cores::available() };
            return Ok(Self {
                kind,
                address,
                server_cores: cli.server_cores.clone().map(|c| c.0).unwrap_or_default(),
                load_cores: cli.cores.clone().map_or(free, |c| c.0),
                embedded: None,
                data: None,
            });
        }
        if cli.raw || matches!(cli.mode, Some(Mode::Fetch | Mode::Verify)) {
            return Err(JobError::Usage("name the server to talk to with -b HOST:PORT".into()));
        }
        let load_cores = cli.cores.clone().map_or(load_half, |c| c.0);
        let server_cores = cli.server_cores.clone().map_or(server_half, |c| c.0);
        let parent = cli.data.clone().unwrap_or_else(|| {
            let target = PathBuf::from("target");
            if target.is_dir() { target } else { std::env::temp_dir() }
        });
        let data = TemporaryDir::create(parent.join(format!("kariz-loadgen-{run:016x}")))?;
        let embedded = embedded::start(&data.0, &server_cores)?;
        Ok(Self {
            kind: TargetKind::Embedded,
            address: embedded.bootstrap,
            server_cores,
            load_cores,
            embedded: Some(embedded),
            data: Some(data),
        })
    }

    /// Whose CPU time is the server's.
    pub(super) fn meter(&self, cli: &Cli) -> ServerMeter {
        match cli.server_pid {
            Some(pid) => ServerMeter::Process(pid),
            None if self.kind == TargetKind::Embedded => ServerMeter::Rest,
            None => ServerMeter::None,
        }
    }

    /// Stops a server of our own, and removes its data.
    ///
    /// # Errors
    /// [`JobError::Embedded`].
    pub(super) fn stop(self) -> Result<(), JobError> {
        let stopped = self.embedded.map_or(Ok(()), Embedded::stop);
        drop(self.data);
        Ok(stopped?)
    }
}
