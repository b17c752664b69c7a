//! Reaching a core from any thread. For control traffic: nothing of this is on the data path.

use super::Shard;
use crate::types::ShardId;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The engine has shut down, or was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine has shut down")]
pub struct Closed;

/// What a core is sent.
pub(crate) enum Job {
    /// Something to do there.
    Run(Box<dyn FnOnce(Shard) + Send>),
    /// The end, once the apps have ended or the time is over.
    Stop(Duration),
    /// The end at once, as in a crash.
    Abandon,
}

pub(crate) type Mailbox = mpsc::UnboundedReceiver<Job>;

/// A way to every core of an engine. Cheap to clone, and at home on any thread.
#[derive(Clone, Default)]
pub struct Handle(Arc<[mpsc::UnboundedSender<Job>]>);

impl Handle {
    pub(crate) fn new(cores: Vec<mpsc::UnboundedSender<Job>>) -> Self {
        Self(cores.into())
    }

    /// How many cores there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.0.len()).unwrap_or(u16::MAX)
    }

    /// Runs `f` on core `shard` and waits for what it returns.
    ///
    /// # Errors
    /// [`Closed`] if the engine has shut down or was dropped, or is before `f` has ended.
    pub async fn on<F, Fut, T>(&self, shard: ShardId, f: F) -> Result<T, Closed>
    where
        F: FnOnce(Shard) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.send(
            shard,
            Box::new(move |shard: Shard| {
                shard.clone().spawn(async move {
                    // Whoever asked may have gone.
                    let _gone = answer.send(f(shard).await);
                });
            }),
        )?;
        answered.await.map_err(|_| Closed)
    }

    pub(crate) fn send(
        &self,
        shard: ShardId,
        job: Box<dyn FnOnce(Shard) + Send>,
    ) -> Result<(), Closed> {
        let core = self.0.get(usize::from(shard.0)).ok_or(Closed)?;
        core.send(Job::Run(job)).map_err(|_| Closed)
    }

    pub(crate) fn stop(&self, grace: Duration) {
        self.send_all(|| Job::Stop(grace));
    }

    pub(crate) fn abandon(&self) {
        self.send_all(|| Job::Abandon);
    }

    fn send_all(&self, job: impl Fn() -> Job) {
        for core in &*self.0 {
            // A core that has ended already is what is wanted.
            let _ended = core.send(job());
        }
    }
}
