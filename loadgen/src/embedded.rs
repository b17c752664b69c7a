//! The main job's own server, behind one function; all else knows the protocol only.

use std::net::SocketAddr;
use std::path::Path;

/// Why there is no embedded server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// This build has none.
    #[error("this build has no server of its own: name a broker with -b HOST:PORT")]
    Absent,
    /// It did not start.
    #[error("the server did not start: {0}")]
    Start(String),
    /// It did not stop as it should.
    #[error("the server did not stop cleanly: {0}")]
    Stop(String),
}

/// A running server; [`Embedded::stop`] ends it.
pub struct Embedded {
    /// Where it listens.
    pub bootstrap: SocketAddr,
    stop: Box<dyn FnOnce() -> Result<(), EmbeddedError>>,
}

impl Embedded {
    /// Stops the server.
    ///
    /// # Errors
    /// [`EmbeddedError::Stop`].
    pub fn stop(self) -> Result<(), EmbeddedError> {
        (self.stop)()
    }
}

/// Starts a server on a free port, with its data in `data` and its threads on `cores`.
///
/// # Errors
/// [`EmbeddedError::Start`], or [`EmbeddedError::Absent`].
#[cfg(feature = "embedded")]
pub fn start(data: &Path, cores: &[u32]) -> Result<Embedded, EmbeddedError> {
    let options = kariz_server::Options {
        data: data.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        cores: cores.iter().map(|c| crate::num::index(u64::from(*c))).collect(),
        ..kariz_server::Options::default()
    };
    let server = kariz_server::Server::start(options)
        .map_err(|error| EmbeddedError::Start(error.to_string()))?;
    Ok(Embedded {
        bootstrap: server.bootstrap(),
        stop: Box::new(move || {
            server.stop().map_err(|error| EmbeddedError::Stop(error.to_string()))
        }),
    })
}

/// This build has no server.
///
/// # Errors
/// [`EmbeddedError::Absent`].
#[cfg(not(feature = "embedded"))]
pub fn start(_data: &Path, _cores: &[u32]) -> Result<Embedded, EmbeddedError> {
    Err(EmbeddedError::Absent)
}
