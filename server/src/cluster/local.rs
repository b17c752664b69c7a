//! The local control plane on real threads: finds the owner on core 0, and every core's state on
//! its own.
//!
//! Each core's thread keeps its [`Node`] in a thread-local: what runs there through
//! [`Handle::on`] has nothing else to find it by.

use super::control::{
    Answer, Control, ControlError, Created, Deleted, NewTopic, TopicError, TopicRef,
};
use super::log::Delta;
use super::owner::{Owner, Publish};
use crate::core::Core;
use crate::join::join_all;
use kariz_engine::Handle;
use kariz_engine::io::uring::Uring;
use kariz_engine::types::ShardId;
use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Where the owner lives.
pub(crate) const OWNER: ShardId = ShardId(0);

/// What lives on one core's thread.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) core: Option<Rc<Core<Uring>>>,
    pub(crate) owner: Option<Rc<Owner<Uring>>>,
    pub(crate) listener: Option<<Uring as kariz_engine::io::Io>::Listener>,
}

thread_local! {
    static NODE: RefCell<Node> = RefCell::default();
}

/// Works with what lives on this thread.
pub(crate) fn node<T>(f: impl FnOnce(&mut Node) -> T) -> T {
    NODE.with_borrow_mut(f)
}

/// Forgets everything that lives on this thread.
pub(crate) fn clear() {
    // Dropped outside the borrow: what goes may look here.
    let node = node(std::mem::take);
    drop(node);
}

/// Reaches the owner from any core.
pub(crate) struct Local {
    handle: Handle,
}

impl Local {
    /// The control plane of the engine behind `handle`.
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Runs `command` on the owner.
    fn ask<F, Fut, T>(&self, command: F) -> Answer<T>
    where
        F: FnOnce(Rc<Owner<Uring>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, ControlError>> + 'static,
        T: Send + 'static,
    {
        let handle = self.handle.clone();
        Box::pin(async move {
            let asked = handle.on(OWNER, move |_| {
                let owner = node(|node| node.owner.clone());
                async move { command(owner.ok_or(ControlError::Closed)?).await }
            });
            asked.await.map_err(|_| ControlError::Closed)?
        })
    }
}

impl Control for Local {
    fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Answer<Vec<Result<Created, TopicError>>> {
        self.ask(move |owner| async move { owner.create_topics(topics, validate_only).await })
    }

    fn delete_topics(&self, topics: Vec<TopicRef>) -> Answer<Vec<Result<Deleted, TopicError>>> {
        self.ask(move |owner| async move { owner.delete_topics(topics).await })
    }

    fn producer_ids(&self, broker: i32) -> Answer<Range<i64>> {
        self.ask(move |owner| async move { owner.producer_ids(broker).await })
    }
}

/// Has every core apply a delta, all at once.
pub(crate) fn publish(handle: Handle) -> Publish {
    Box::new(move |delta: Arc<Delta>| {
        let handle = handle.clone();
        Box::pin(async move {
            let applying = (0..handle.shards()).map(|core| {
                let (handle, delta) = (handle.clone(), Arc::clone(&delta));
                async move {
                    handle.on(ShardId(core), move |_| apply(delta)).await.unwrap_or_else(|_| {
                        tracing::warn!(core, "a core stopped before it knew of a change");
                    });
                }
            });
            join_all(applying).await;
        })
    })
}

async fn apply(delta: Arc<Delta>) {
    let Some(core) = node(|node| node.core.clone()) else { return };
    if let Err(error) = core.apply(&delta).await {
        // What is durable must be applied: a core that cannot must not serve a wrong image.
        tracing::error!(%error, "a change of the cluster could not be applied");
        core.connections.each(crate::connection::Connection::drain);
    }
}
