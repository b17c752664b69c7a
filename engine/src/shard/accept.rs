//! The accept loop of a server that is a page long.

use super::Shard;
use crate::futures::{Either, either};
use crate::io::{Conn, Io, Listener};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long nothing is accepted after an accept that failed: mostly, file descriptors ran out.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

impl<I: Io> Shard<I> {
    /// Listens on `at` and runs `app` for each connection, as a task of its own, until the engine
    /// begins to stop; the shutdown waits for those that are open. Connections past
    /// `connections_max` are closed at once. How an `app` ends is its own affair.
    ///
    /// ```
    /// use kariz_engine::Shard;
    /// use kariz_engine::io::{Conn, Io};
    ///
    /// async fn echo<I: Io>(shard: Shard<I>) -> std::io::Result<()> {
    ///     let session = |conn: I::Conn| async move {
    ///         while let Some(chunk) = conn.recv().await? {
    ///             conn.send(&chunk, false).await?;
    ///         }
    ///         std::io::Result::Ok(())
    ///     };
    ///     shard.accept(([127, 0, 0, 1], 7000).into(), 1000, session).await
    /// }
    /// # use kariz_engine::{io::sim::{Faults, World}, sim};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io.clone(), "/data".as_ref(), Default::default()).await?;
    /// # io.spawn(async move { echo(shard).await.unwrap() });
    /// # io.sleep(std::time::Duration::from_millis(1)).await;
    /// # let client = io.connect(([127, 0, 0, 1], 7000).into()).await?;
    /// # client.send(b"hello", false).await?;
    /// # let mut answer = Vec::new();
    /// # while answer.len() < 5 {
    /// #     answer.extend(client.recv().await?.unwrap());
    /// # }
    /// # assert_eq!(answer, b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// As `bind(2)` and `listen(2)`.
    pub async fn accept<F, Fut>(
        &self,
        at: SocketAddr,
        connections_max: usize,
        app: F,
    ) -> io::Result<()>
    where
        F: Fn(I::Conn) -> Fut,
        Fut: Future + 'static,
    {
        let listener = self.io().listen(at)?;
        let open = Rc::new(());
        loop {
            match either(self.stopping(), listener.accept()).await {
                Either::Left(()) => return Ok(()),
                Either::Right(Ok(conn)) if Rc::strong_count(&open) <= connections_max => {
                    let (served, it) = (app(conn), (self.guard(), Rc::clone(&open)));
                    self.spawn(async move {
                        served.await;
                        drop(it);
                    });
                }
                Either::Right(Ok(conn)) => conn.close(),
                Either::Right(Err(_)) => self.io().sleep(AFTER_FAILURE).await,
            }
        }
    }
}
