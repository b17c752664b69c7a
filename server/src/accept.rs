//! What a core runs while the server serves: accepts connections until it is to stop, then lets
//! those that are open finish.

use crate::connection::Connection;
use crate::core::Core;
use kariz_engine::io::{Conn, Io, Listener};
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long nothing is accepted after an accept that failed: mostly, file descriptors ran out.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Serves `listener` until the engine stops.
pub(crate) async fn serve<I: Io>(
    core: Rc<Core<I>>,
    listener: I::Listener,
) -> Result<(), Infallible> {
    core.shard.spawn(Rc::clone(&core).watch());
    let mut stopping = pin!(core.shard.stopping());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(conn) if core.connections.len() < core.config.connections_max => {
                core.metrics.accepted.add(1);
                Connection::start(&core, conn);
            }
            Ok(conn) => {
                core.metrics.turned_away.add(1);
                tracing::debug!(peer = %conn.peer(), "turned away: as many are open as may be");
                conn.close();
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                core.shard.io().sleep(AFTER_FAILURE).await;
            }
        }
    }
    drop(listener);
    core.connections.each(Connection::drain);
    core.connections.emptied().await;
    Ok(())
}
