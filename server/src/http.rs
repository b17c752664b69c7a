//! `/metrics` in Prometheus' text format, on a thread of its own: a scrape is never in a core's
//! way but for the moment in which it copies its counters.

use crate::cluster::local::node;
use crate::metrics;
use crate::num::u64_from;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use kariz_engine::metrics::{Snapshot, Unit, prometheus};
use kariz_engine::types::ShardId;
use kariz_engine::{Handle, Shard};
use kariz_protocol::ApiKey;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

/// Scrapers that are answered at once; others wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// How long a scraper may take to send its request, and again to take the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The thread that serves `/metrics`.
pub(crate) struct Http {
    listening: SocketAddr,
    stop: Arc<Notify>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Http {
    /// Where it listens.
    pub(crate) fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// Ends it.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that serves metrics panicked");
        }
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

/// Serves the metrics of the engine behind `handle` on `at`.
///
/// # Errors
/// As `bind(2)`, or when no thread can be started.
pub(crate) fn serve(at: SocketAddr, handle: Handle) -> io::Result<Http> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _context = runtime.enter();
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)?
    };
    let listening = listener.local_addr()?;
    let stop = Arc::new(Notify::new());
    let stopping = Arc::clone(&stop);
    let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, handle) => (),
                () = stopping.notified() => (),
            }
        });
    })?;
    Ok(Http { listening, stop, thread: Mutex::new(Some(thread)) })
}

async fn accept(listener: TcpListener, handle: Handle) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a scraper could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handle = handle.clone();
        tokio::spawn(async move {
            let answering = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service_fn(|r| answer(r, handle.clone())));
            match tokio::time::timeout(2 * TIMEOUT, answering).await {
                Ok(Ok(())) => (),
                Ok(Err(error)) => tracing::debug!(%error, "a scrape failed"),
                Err(_) => tracing::debug!("a scraper took too long"),
            }
            drop(permit);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    handle: Handle,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, scrape(&handle).await),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "see /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let content = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(CONTENT_TYPE, content);
    Ok(response)
}

/// What one core told.
struct Told {
    core: u16,
    server: Option<metrics::Snapshot>,
    connections: u64,
    partial_bytes: u64,
    /// Waits for its partitions: by acknowledgements, by parked fetches.
    waiters: u64,
    /// What the engine counts.
    engine: Snapshot,
}

/// Asks every core and writes all down.
async fn scrape(handle: &Handle) -> String {
    let mut told = Vec::new();
    for core in 0..handle.shards() {
        let asked = handle.on(ShardId(core), move |shard| async move { tell(core, &shard) });
        told.extend(asked.await.ok());
    }
    let mut out = String::new();
    // Writing to a string cannot fail.
    if write_server(&mut out, &told).is_err() {
        tracing::error!("the metrics could not be written");
    }
    let engine: Vec<Snapshot> = told.into_iter().map(|told| told.engine).collect();
    prometheus(&engine, &mut out);
    out
}

fn tell(core: u16, shard: &Shard) -> Told {
    let server = node(|node| node.core.clone());
    let partitions = shard.partitions();
    let waiters = partitions.iter().map(|partition| u64_from(partition.waiters())).sum();
    Told {
        core,
        connections: server.as_ref().map_or(0, |core| u64_from(core.connections.len())),
        partial_bytes: server.as_ref().map_or(0, |core| u64_from(core.budget.used_bytes())),
        server: server.map(|core| core.metrics.snapshot()),
        waiters,
        engine: shard.snapshot(),
    }
}

fn write_server(out: &mut String, told: &[Told]) -> std::fmt::Result {
    gauge(out, "connections", told, |t| t.connections)?;
    gauge(out, "partial_request_bytes", told, |t| t.partial_bytes)?;
    gauge(out, "waiters", told, |t| t.waiters)?;
    type Pick = fn(&metrics::Snapshot) -> u64;
    let counters: [(&str, Pick); 6] = [
        ("received_bytes", |s| s.bytes_in),
        ("sent_bytes", |s| s.bytes_out),
        ("connections_accepted", |s| s.accepted),
        ("connections_turned_away", |s| s.turned_away),
        ("connections_refused", |s| s.refused),
        ("fetches_parked", |s| s.parked),
    ];
    for (name, pick) in counters {
        writeln!(out, "# TYPE kariz_{name}_total counter")?;
        for t in told {
            let value = t.server.as_ref().map_or(0, pick);
            writeln!(out, "kariz_{name}_total{{core=\"{}\"}} {value}", t.core)?;
        }
    }
    writeln!(out, "# TYPE kariz_errors_total counter")?;
    for t in told {
        for (code, n) in t.server.iter().flat_map(|s| &s.errors) {
            writeln!(out, "kariz_errors_total{{core=\"{}\",code=\"{code}\"}} {n}", t.core)?;
        }
    }
    writeln!(out, "# TYPE kariz_request_seconds histogram")?;
    for t in told {
        let histograms = t.server.iter().flat_map(|s| ApiKey::ALL.iter().zip(&s.latency_us));
        for (api, histogram) in histograms.filter(|(_, h)| h.count() > 0) {
            let labels = [("core", &*t.core.to_string()), ("api", api.name())];
            histogram.prometheus("kariz_request_seconds", &labels, Unit::Microseconds, out);
        }
    }
    Ok(())
}

fn gauge(out: &mut String, name: &str, told: &[Told], pick: fn(&Told) -> u64) -> std::fmt::Result {
    writeln!(out, "# TYPE kariz_{name} gauge")?;
    for t in told {
        writeln!(out, "kariz_{name}{{core=\"{}\"}} {}", t.core, pick(t))?;
    }
    Ok(())
}
