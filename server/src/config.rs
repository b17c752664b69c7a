//! What the server is told at its start: options, Kafka's keys, and what follows from them.

use crate::cluster::control::ConfigEntry;
use kariz_engine::LogConfig;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why an option is refused.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// The properties file cannot be read.
    #[error("{file}: {error}", file = .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// What clients are to be told is no host, or no port.
    #[error("`{0}` is no HOST or HOST:PORT to advertise")]
    Advertise(String),
    /// A core's port would be past the last.
    #[error("core {core} would be advertised at port {port} + {core}, which is no port")]
    AdvertisePort {
        /// The first core's.
        port: u16,
        /// Which.
        core: u16,
    },
}

/// The broker's configuration, as the server uses it.
pub(crate) struct Settings {
    pub(crate) node_id: i32,
    pub(crate) rack: Option<String>,
    pub(crate) request_bytes_max: usize,
    pub(crate) partial_bytes_max: usize,
    pub(crate) fetch_bytes_max: usize,
    pub(crate) connections_max: usize,
    pub(crate) idle_max: Duration,
    pub(crate) auto_create_topics: bool,
    pub(crate) delete_topic_enable: bool,
    pub(crate) num_partitions: i32,
    pub(crate) replication_factor_strict: bool,
}

impl Settings {
    pub(crate) fn new(
        _file: Option<&Path>,
        _set: &[(String, String)],
    ) -> Result<Self, OptionError> {
        Ok(Self {
            node_id: 1,
            rack: None,
            request_bytes_max: 100 << 20,
            partial_bytes_max: 48 << 20,
            fetch_bytes_max: 55 << 20,
            connections_max: 10000,
            idle_max: Duration::from_secs(600),
            auto_create_topics: true,
            delete_topic_enable: true,
            num_partitions: 1,
            replication_factor_strict: false,
        })
    }
    pub(crate) fn engine(&self, cpus: Vec<usize>) -> kariz_engine::Config {
        kariz_engine::Config { cpus, node_id: self.node_id, ..kariz_engine::Config::default() }
    }
    pub(crate) fn log_config<'a>(
        &self,
        _set: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<LogConfig, OptionError> {
        Ok(LogConfig::default())
    }
    pub(crate) fn topic_entries<'a>(
        &self,
        _set: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<ConfigEntry>, OptionError> {
        Ok(Vec::new())
    }
    pub(crate) fn metadata_log_config(&self) -> LogConfig {
        LogConfig::default()
    }
}

/// What clients are told to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advertise {
    pub(crate) host: String,
    /// The first core's; `None`: as it listens.
    pub(crate) port: Option<u16>,
}

impl Advertise {
    /// Reads `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`.
    pub(crate) fn parse(text: &str) -> Result<Self, OptionError> {
        let bad = || OptionError::Advertise(text.to_owned());
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(bad)?)),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.map(|port| port.parse().map_err(|_| bad())).transpose()?;
        if host.is_empty() || port == Some(0) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// What to tell clients when nobody said: the address, or the machine's name if the server
    /// listens on all of them.
    pub(crate) fn host_of(at: IpAddr) -> String {
        if at.is_unspecified() {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        } else {
            at.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_is_read() {
        let read = |text| Advertise::parse(text).map(|a| (a.host, a.port)).ok();
        assert_eq!(read("kafka.example"), Some(("kafka.example".into(), None)));
        assert_eq!(read("10.0.0.1:9092"), Some(("10.0.0.1".into(), Some(9092))));
        assert_eq!(read("[::1]:9092"), Some(("::1".into(), Some(9092))));
        assert_eq!(read("[::1]"), Some(("::1".into(), None)));
        for bad in ["", ":1", "a:", "a:b", "a:0", "a:65536", "[::1]x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
