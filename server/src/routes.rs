//! Where partitions are, for the hot path: one hash of a topic's name, one index.

use kariz_engine::Partition;
use kariz_engine::io::Io;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Where one partition is, seen from this core.
pub(crate) enum Place<I: Io> {
    /// On this core.
    Here(Partition<I>),
    /// On another core, or another machine.
    Elsewhere,
    /// It belongs here but could not be created or opened.
    Offline,
}

/// A topic as one core sees it.
pub(crate) struct Topic<I: Io> {
    pub(crate) name: Arc<str>,
    /// By partition number.
    pub(crate) places: Vec<Place<I>>,
    /// Whether another has taken its place in the table: do not use it again.
    stale: Cell<bool>,
}

impl<I: Io> Topic<I> {
    /// A topic with its partitions in the order of their numbers.
    pub(crate) fn new(name: Arc<str>, places: Vec<Place<I>>) -> Rc<Self> {
        Rc::new(Self { name, places, stale: Cell::new(false) })
    }

    /// Where partition `index` is, if there is one.
    pub(crate) fn place(&self, index: i32) -> Option<&Place<I>> {
        self.places.get(usize::try_from(index).ok()?)
    }

    /// Whether the topic has been changed or deleted since it was looked up.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.get()
    }
}

/// All topics, by name.
pub(crate) struct Routes<I: Io> {
    topics: RefCell<FxHashMap<Arc<str>, Rc<Topic<I>>>>,
}

impl<I: Io> Default for Routes<I> {
    fn default() -> Self {
        Self { topics: RefCell::default() }
    }
}

impl<I: Io> Routes<I> {
    /// The topic called `name`.
    pub(crate) fn topic(&self, name: &str) -> Option<Rc<Topic<I>>> {
        self.topics.borrow().get(name).cloned()
    }

    /// Sets a topic, in place of what had its name.
    pub(crate) fn insert(&self, topic: Rc<Topic<I>>) {
        let old = self.topics.borrow_mut().insert(Arc::clone(&topic.name), topic);
        if let Some(old) = old {
            old.stale.set(true);
        }
    }

    /// Removes a topic.
    pub(crate) fn remove(&self, name: &str) -> Option<Rc<Topic<I>>> {
        let old = self.topics.borrow_mut().remove(name)?;
        old.stale.set(true);
        Some(old)
    }
}
