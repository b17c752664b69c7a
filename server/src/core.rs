//! What one core knows and shares between its connections.

use crate::cluster::apply::Unmade;
use crate::cluster::control::{Control, ControlError};
use crate::cluster::image::Image;
use crate::config::Settings;
use crate::connection::Connection;
use crate::connection::budget::Budget;
use crate::connection::wake::WakeSlot;
use crate::metrics::Metrics;
use crate::routes::Routes;
use kariz_engine::Shard;
use kariz_engine::io::Io;
use kariz_protocol::messages::{LeaderIdAndEpoch, NodeEndpoint};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// How often idle connections are looked for, and what could not be made is tried again.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// One core: a broker.
pub(crate) struct Core<I: Io> {
    pub(crate) shard: Shard<I>,
    pub(crate) broker_id: i32,
    pub(crate) cluster_id: Arc<str>,
    pub(crate) config: Arc<Settings>,
    pub(crate) image: RefCell<Image>,
    pub(crate) routes: Routes<I>,
    pub(crate) unmade: Unmade,
    pub(crate) connections: Connections<I>,
    pub(crate) budget: Rc<Budget>,
    /// What requests of all connections hold until they are answered.
    pub(crate) in_flight_bytes: Cell<usize>,
    pub(crate) metrics: Metrics,
    control: Box<dyn Control>,
    /// Producer ids that are this core's to give away.
    producer_ids: RefCell<Range<i64>>,
    /// Whether somebody is fetching the next block.
    refill: tokio::sync::Mutex<()>,
    /// Seconds since the core began, roughly: a clock that costs nothing to read.
    ticks: Cell<u64>,
}

impl<I: Io> Core<I> {
    /// A core that knows what `image` says and no partition yet.
    pub(crate) fn new(
        shard: Shard<I>,
        broker_id: i32,
        cluster_id: Arc<str>,
        config: Arc<Settings>,
        image: Image,
        control: Box<dyn Control>,
    ) -> Rc<Self> {
        Rc::new(Self {
            shard,
            broker_id,
            cluster_id,
            image: RefCell::new(image),
            routes: Routes::default(),
            unmade: Unmade::default(),
            connections: Connections::default(),
            budget: Budget::new(config.partial_bytes_max),
            in_flight_bytes: Cell::new(0),
            config,
            metrics: Metrics::default(),
            control,
            producer_ids: RefCell::new(0..0),
            refill: tokio::sync::Mutex::new(()),
            ticks: Cell::new(0),
        })
    }

    /// The control plane.
    pub(crate) fn control(&self) -> &dyn Control {
        &*self.control
    }

    /// The tick now.
    pub(crate) fn tick(&self) -> u64 {
        self.ticks.get()
    }

    /// Who leads a partition, for those who asked the wrong core.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<LeaderIdAndEpoch> {
        let image = self.image.borrow();
        let partition = image.topic(topic)?.partition(partition)?;
        let (leader_id, leader_epoch) = (partition.leader, partition.leader_epoch);
        Some(LeaderIdAndEpoch { leader_id, leader_epoch })
    }

    /// Adds where broker `id` listens, unless it is there already.
    pub(crate) fn add_endpoint(&self, id: i32, endpoints: &mut Vec<NodeEndpoint>) {
        let image = self.image.borrow();
        if let Some(broker) = image.broker(id)
            && endpoints.iter().all(|at| at.node_id != id)
        {
            endpoints.push(NodeEndpoint {
                node_id: id,
                host: broker.host.clone(),
                port: i32::from(broker.port),
                rack: broker.rack.clone(),
            });
        }
    }

    /// A producer id that nobody has had.
    pub(crate) async fn next_producer_id(&self) -> Result<i64, ControlError> {
        loop {
            if let Some(id) = self.producer_ids.borrow_mut().next() {
                return Ok(id);
            }
            let _refill = self.refill.lock().await;
            if self.producer_ids.borrow().is_empty() {
                let block = self.control.producer_ids(self.broker_id).await?;
                *self.producer_ids.borrow_mut() = block;
            }
        }
    }

    /// Closes idle connections, and makes what could not be made, until the core stops.
    pub(crate) async fn watch(self: Rc<Self>) {
        let mut stopping = pin!(self.shard.stopping());
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => return,
                () = self.shard.io().sleep(TICK) => (),
            }
            self.ticks.set(self.ticks.get() + 1);
            self.make_unmade().await;
            let Some(limit) = self.config.idle_max.map(|d| d.as_secs().max(1)) else { continue };
            if let Some(since) = self.ticks.get().checked_sub(limit)
                && self.ticks.get().is_multiple_of(limit.div_ceil(10))
            {
                self.connections.each(|connection| connection.close_if_idle(since));
            }
        }
    }
}

/// The open connections of a core.
pub(crate) struct Connections<I: Io> {
    open: RefCell<Slab<Weak<Connection<I>>>>,
    /// Waits for the last to end.
    last: WakeSlot,
}

impl<I: Io> Default for Connections<I> {
    fn default() -> Self {
        Self { open: RefCell::new(Slab::new()), last: WakeSlot::default() }
    }
}

impl<I: Io> Connections<I> {
    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Adds one; returns the key to remove it by.
    pub(crate) fn insert(&self, connection: &Rc<Connection<I>>) -> usize {
        self.open.borrow_mut().insert(Rc::downgrade(connection))
    }

    /// Removes one.
    pub(crate) fn remove(&self, key: usize) {
        self.open.borrow_mut().try_remove(key);
        self.last.wake();
    }

    /// Waits until none is open.
    pub(crate) async fn emptied(&self) {
        self.last.until(|| self.open.borrow().is_empty()).await;
    }

    /// Does something with each.
    pub(crate) fn each(&self, f: impl Fn(&Connection<I>)) {
        // Collected first: what is done may end a connection, which removes it here.
        let open: Vec<_> = self.open.borrow().iter().filter_map(|(_, c)| c.upgrade()).collect();
        for connection in open {
            f(&connection);
        }
    }
}
