//! What the server is told at its start: options, Kafka's keys, and what follows from them.

use crate::cluster::control::ConfigEntry;
use kariz_engine::Event;
use kariz_engine::config::{
    BadEscape, BrokerConfig, ConfigError, LogConfig, Warning, parse_properties,
};
use rustix::process::{Resource, getrlimit};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
    /// The properties file is none.
    #[error("{file}: {error}", file = .file.display())]
    Properties {
        /// The file.
        file: PathBuf,
        /// Why.
        error: BadEscape,
    },
    /// A setting has a value that it does not accept.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting that neither Kafka nor we have; likely a slip of the pen.
    #[error("`{0}` is no setting: see `kariz settings` for all of them")]
    Unknown(String),
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

/// Bytes that large requests hold, until they are whole or answered, where
/// `queued.max.request.bytes` does not say.
const QUEUED_BYTES: usize = 16 * 1024 * 1024;
/// The least that one core gets of them.
const QUEUED_BYTES_MIN: usize = 4 * 1024 * 1024;

/// The broker's configuration, as the server uses it.
pub(crate) struct Settings {
    broker: BrokerConfig,
    pub(crate) node_id: i32,
    /// `broker.rack`, else the machine's name.
    pub(crate) rack: Option<String>,
    pub(crate) request_bytes_max: usize,
    /// What a core may hold of unfinished large requests.
    pub(crate) partial_bytes_max: usize,
    pub(crate) fetch_bytes_max: usize,
    /// Of a core.
    pub(crate) connections_max: usize,
    /// `None`: connections may be silent for ever.
    pub(crate) idle_max: Option<Duration>,
    pub(crate) auto_create_topics: bool,
    pub(crate) delete_topics: bool,
    pub(crate) num_partitions: i32,
    pub(crate) replication_factor_strict: bool,
}

impl Settings {
    /// Reads the properties file `file`, if there is one, and `set` over it, for a process of
    /// `cores` cores.
    pub(crate) fn new(
        file: Option<&Path>,
        set: &[(String, String)],
        cores: usize,
    ) -> Result<Self, OptionError> {
        let mut pairs = match file {
            Some(file) => read(file)?,
            None => Vec::new(),
        };
        pairs.extend_from_slice(set);
        let named = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let (broker, warnings) = BrokerConfig::parse(named)?;
        for warning in warnings {
            match warning {
                Warning::Unknown { name } => return Err(OptionError::Unknown(name)),
                warning => tracing::warn!("{warning}"),
            }
        }
        let queued = broker.queued_request_bytes_max.unwrap_or(QUEUED_BYTES);
        let connections_max = broker.connections_max.min(connections_with_files(cores));
        if connections_max < broker.connections_max
            && pairs.iter().any(|(key, _)| key == "max.connections")
        {
            let set = broker.connections_max;
            tracing::warn!(set, connections_max, "max.connections is past what open files allow");
        }
        let idle_ms = u64::try_from(broker.connections_idle_max_ms).ok();
        Ok(Self {
            node_id: broker.node_id,
            rack: broker.rack.clone().or_else(|| Some(machine_name())),
            request_bytes_max: broker.request_bytes_max,
            partial_bytes_max: queued.checked_div(cores).unwrap_or(queued).max(QUEUED_BYTES_MIN),
            fetch_bytes_max: broker.fetch_bytes_max,
            connections_max,
            idle_max: idle_ms.map(Duration::from_millis),
            auto_create_topics: broker.auto_create_topics,
            delete_topics: broker.delete_topics,
            num_partitions: broker.num_partitions,
            replication_factor_strict: broker.replication_factor_strict,
            broker,
        })
    }

    /// How the engine is opened on `cpus`.
    pub(crate) fn engine(&self, cpus: Vec<usize>) -> kariz_engine::Config {
        let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        kariz_engine::Config {
            cpus,
            node_id: self.node_id,
            retention_check: ms(self.broker.retention_check_interval_ms),
            producer_expiration_ms: self.broker.producer_id_expiration_ms,
            on_event: Arc::new(log_event),
            ..kariz_engine::Config::default()
        }
    }

    /// The settings of a topic for which `set` was set.
    pub(crate) fn log_config<'a>(
        &self,
        set: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<LogConfig, ConfigError> {
        self.broker.topic(set)
    }

    /// Every setting of a topic for which `set` was set, with its value.
    pub(crate) fn describe_topic<'a>(
        &self,
        set: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<ConfigEntry>, ConfigError> {
        let described = self.broker.describe_topic(set)?;
        let entries = described.into_iter().map(|described| ConfigEntry {
            name: described.name,
            value: described.value,
            source: described.source,
        });
        Ok(entries.collect())
    }

    /// The settings of the metadata log.
    pub(crate) fn metadata_log(&self) -> LogConfig {
        self.broker.metadata_log()
    }
}

fn read(file: &Path) -> Result<Vec<(String, String)>, OptionError> {
    let failed = |error| OptionError::File { file: file.to_owned(), error };
    let text = std::fs::read_to_string(file).map_err(failed)?;
    parse_properties(&text)
        .map_err(|error| OptionError::Properties { file: file.to_owned(), error })
}

/// Tells an operator what the engine has to say.
fn log_event(event: &Event) {
    match event {
        Event::Fenced { partition, reason } => {
            tracing::error!(partition, reason, "a partition stopped serving");
        }
        Event::CoreFailed { reason } => tracing::error!(reason, "a core takes no more writes"),
        Event::Full { partition, reason } => {
            tracing::error!(partition, reason, "writes are refused for now");
        }
        Event::RoomAgain { partition } => tracing::info!(partition, "writes are taken again"),
        Event::Cut { partition, bytes } => {
            tracing::warn!(partition, bytes, "recovery moved bytes aside that nobody was promised");
        }
        Event::Warning { what } => tracing::warn!("{what}"),
        event => tracing::warn!("{event:?}"),
    }
}

/// The most connections of one of `cores` cores beside which there are descriptors for files: all of
/// them together may have half. A file that cannot be opened fails writes, a connection only itself.
fn connections_with_files(cores: usize) -> usize {
    match getrlimit(Resource::Nofile).current.map(usize::try_from) {
        Some(Ok(descriptors)) => (descriptors / 2 / cores.max(1)).max(1),
        _ => usize::MAX,
    }
}

fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
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
        let is_v6 = text.starts_with('[') && host.parse::<Ipv6Addr>().is_ok();
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let is_name = !host.is_empty() && host.chars().all(is_name_char);
        if !(is_v6 || is_name) || port == Some(0) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// What to tell clients when nobody said: the address, or the machine's name if the server
    /// listens on all of them.
    pub(crate) fn host_of(at: IpAddr) -> String {
        if at.is_unspecified() { machine_name() } else { at.to_string() }
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
        for bad in
            ["", ":1", "a:", "a:b", "a:0", "a:65536", "[::1]x", "[a", "[::g]", "a b", "http://a"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
