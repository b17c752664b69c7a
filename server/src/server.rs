//! The server as a value: start it, ask where it listens, stop it.

use crate::block_on::block_on;
use crate::cluster::local::{clear, node};
use crate::cluster::start::{self, Brokers, ClusterError};
use crate::config::{Advertise, OptionError, Settings};
use crate::http::{self, Http};
use crate::{accept, num};
use kariz_engine::{Engine, OpenError};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long connections may take to get their last answers when the server stops.
const GRACE: Duration = Duration::from_secs(10);

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is stored; made if it is not there.
    pub data: PathBuf,
    /// Where the first core listens; core `i` listens on this port + i (port 0: free ones).
    pub listen: SocketAddr,
    /// The CPUs to run on, one broker each. Empty: every one that the process may run on.
    pub cores: Vec<usize>,
    /// What clients are told to connect to: `HOST` or `HOST:PORT`, where core `i` is told
    /// PORT + i. `None`: the address listened on, or the machine's name if that is all of them.
    pub advertise: Option<String>,
    /// A Java properties file with Kafka's keys.
    pub config: Option<PathBuf>,
    /// Keys of that file and their values, over what it says.
    pub set: Vec<(String, String)>,
    /// Where `/metrics` is served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

impl Default for Options {
    /// `./kariz-data` on 127.0.0.1:9092, on every CPU.
    fn default() -> Self {
        Self {
            data: PathBuf::from("./kariz-data"),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9092),
            cores: Vec::new(),
            advertise: None,
            config: None,
            set: Vec::new(),
            metrics: None,
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option makes no sense.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// There is no io_uring, and Kariz has no other way.
    #[error(transparent)]
    Setup(kariz_engine::SetupError),
    /// The data directory cannot be opened.
    #[error("{data}: {error}", data = .data.display())]
    Open {
        /// The data directory.
        data: PathBuf,
        /// Why.
        error: kariz_engine::OpenError,
    },
    /// The cluster cannot be brought up: a port in use, a damaged metadata log.
    #[error("{0}")]
    Cluster(String),
    /// The metrics cannot be served.
    #[error("cannot serve metrics on {at}: {error}")]
    Metrics {
        /// Where.
        at: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A core stopped at once.
    #[error("a core stopped while the server started")]
    Closed,
}

/// Why the server did not stop as it should: the next start will recover.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StopError(String);

/// A server that runs. Clones are the same one. When all are dropped and none was told to
/// [`Server::stop`], it ends as in a crash, soon after.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    /// Gone once it has stopped: it holds the lock on the data directory.
    engine: Mutex<Option<Engine>>,
    listening: Vec<SocketAddr>,
    http: Option<Http>,
    /// The outcome of the stop, once there is one.
    stopped: Mutex<Option<Result<(), StopError>>>,
}

impl Server {
    /// Opens the data directory, recovers it, and serves. All cores accept when it returns.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let advertise = options.advertise.as_deref().map(Advertise::parse).transpose()?;
        let cpus = if options.cores.is_empty() { num::allowed_cpus() } else { options.cores };
        let config = Settings::new(options.config.as_deref(), &options.set, cpus.len())?;
        let config = Arc::new(config);
        let engine =
            Engine::open(&options.data, config.engine(cpus)).map_err(|error| match error {
                OpenError::Setup(error) => StartError::Setup(error),
                error => StartError::Open { data: options.data, error },
            })?;
        tell_recovery(&engine);
        let started = Self::serve(&engine, &config, options.listen, advertise);
        let served = started.and_then(|listening| {
            let http = options.metrics.map(|at| {
                let handle = engine.handle();
                http::serve(at, handle).map_err(|error| StartError::Metrics { at, error })
            });
            Ok((listening, http.transpose()?))
        });
        match served {
            Ok((listening, http)) => {
                let (engine, stopped) = (Mutex::new(Some(engine)), Mutex::new(None));
                Ok(Self { inner: Arc::new(Inner { engine, listening, http, stopped }) })
            }
            Err(error) => {
                if let Err(error) = engine.shutdown(Duration::ZERO) {
                    tracing::warn!(%error, "the engine did not stop cleanly");
                }
                Err(error)
            }
        }
    }

    fn serve(
        engine: &Engine,
        config: &Arc<Settings>,
        listen: SocketAddr,
        advertise: Option<Advertise>,
    ) -> Result<Vec<SocketAddr>, StartError> {
        let failed = |error: ClusterError| StartError::Cluster(error.to_string());
        let listening = block_on(start::listen(&engine.handle(), listen)).map_err(failed)?;
        let (host, base) = match advertise {
            Some(Advertise { host, port }) => (host, port),
            None => (Advertise::host_of(listen.ip()), None),
        };
        let ports = (0_u16..).zip(&listening).map(|(core, at)| match base {
            Some(port) => port.checked_add(core).ok_or(OptionError::AdvertisePort { port, core }),
            None => Ok(at.port()),
        });
        let brokers = Brokers {
            node_id: config.node_id,
            host,
            rack: config.rack.clone(),
            ports: ports.collect::<Result<_, _>>()?,
        };
        block_on(start::start(engine, config, brokers)).map_err(failed)?;
        engine
            .serve(|_| async {
                let (core, listener) = node(|node| (node.core.clone(), node.listener.take()));
                if let (Some(core), Some(listener)) = (core, listener) {
                    accept::serve(core, listener).await?;
                }
                clear();
                Ok::<_, std::convert::Infallible>(())
            })
            .map_err(|_| StartError::Closed)?;
        Ok(listening)
    }

    /// Where the first core listens.
    #[must_use]
    pub fn bootstrap(&self) -> SocketAddr {
        // There is a core: the engine does not open without one.
        self.inner.listening.first().copied().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Where every core listens.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        &self.inner.listening
    }

    /// How many cores serve.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.inner.listening.len()
    }

    /// Where `/metrics` is served, if it is.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.inner.http.as_ref().map(Http::listening)
    }

    /// The engine below, until the server stops: another protocol can be served on it
    /// ([`Engine::serve`]), from the same partitions. Which there are is the cluster's to say: make
    /// them through Kafka's protocol.
    #[must_use]
    pub fn engine(&self) -> Option<Engine> {
        self.inner.engine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers what has been asked, makes everything durable, and ends. Again: says how it ended.
    ///
    /// # Errors
    /// [`StopError`]: not all of it worked, so that the next start has to recover.
    pub fn stop(&self) -> Result<(), StopError> {
        let mut stopped = self.inner.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = &*stopped {
            return outcome.clone();
        }
        if let Some(http) = &self.inner.http {
            http.stop();
        }
        let engine = self.inner.engine.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = engine.map_or(Ok(()), |engine| engine.shutdown(GRACE));
        let outcome = ended.map_err(|error| StopError(error.to_string()));
        *stopped = Some(outcome.clone());
        outcome
    }

    /// Waits until the server is stopped, or fails.
    ///
    /// # Errors
    /// [`StopError`]: why it failed, or how the stop did.
    pub fn wait(&self) -> Result<(), StopError> {
        let engine = self.inner.engine.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ended = engine.map_or(Ok(()), |engine| engine.wait());
        let ended = ended.map_err(|error| StopError(error.to_string()));
        // The one who stops it holds the lock until all is durable.
        let stopped = self.stop();
        ended.and(stopped)
    }
}

/// Says what opening found, where there is something to say.
fn tell_recovery(engine: &Engine) {
    for shard in &engine.recovery().shards {
        let (core, took) = (shard.shard.0, shard.took);
        if !shard.was_clean {
            let (entries, partitions) = (shard.journal_entries, shard.partitions.len());
            tracing::info!(core, entries, partitions, ?took, "recovered after a crash");
        }
        for p in shard.partitions.iter().filter(|p| p.cut_bytes > 0) {
            let (partition, bytes) = (&p.partition, p.cut_bytes);
            tracing::warn!(%partition, bytes, end = %p.log_end, "moved aside what was cut off");
        }
    }
}
