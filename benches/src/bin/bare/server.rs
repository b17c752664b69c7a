//! One turn after the other: receive, append, commit, answer.

use crate::answers::{Answers, Canned, FromFile, Sent, Source};
use crate::commit::Commits;
use crate::connection::{Connection, CutOff, Frames};
use crate::file::Files;
use crate::ring::{Event, Lent, Ring};
use slab::Slab;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;

/// What requests are for.
pub(crate) enum Service {
    /// Their bytes are appended, and answered when written.
    Written(Files),
    /// Their bytes are appended, and answered when durable.
    Durable(Files, Commits),
    /// They are answered with pieces of a file; their own bytes are dropped.
    File(Source),
}

/// Serves `listener` until an error that is not a connection's.
pub(crate) fn run(
    ring: &mut Ring,
    listener: &TcpListener,
    service: Service,
    spins: u32,
) -> io::Result<Infallible> {
    ring.accept(listener.as_fd())?;
    let mut server = Server {
        service,
        connections: Slab::new(),
        answering: Vec::new(),
        committing: Vec::new(),
        dropped: Vec::new(),
    };
    loop {
        ring.turn(spins)?;
        ring.events(|ring, event| server.on(ring, event))?;
        server.write(ring)?;
        server.answer(ring)?;
    }
}

struct Server {
    service: Service,
    connections: Slab<Connection>,
    /// Connections with answers of this turn, or of the group that gathers.
    answering: Vec<u32>,
    /// Connections with answers of the group that is being committed.
    committing: Vec<u32>,
    /// Buffers whose bytes nobody wants.
    dropped: Vec<Lent>,
}

impl Server {
    fn on(&mut self, ring: &mut Ring, event: Event) -> io::Result<()> {
        match event {
            Event::Accepted(socket) => {
                let socket = socket?;
                rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
                let answers = match &self.service {
                    Service::File(source) => {
                        let slot = self.connections.vacant_key();
                        Answers::File(FromFile::new(source.clone(), slot))
                    }
                    Service::Written(_) | Service::Durable(..) => {
                        Answers::Canned(Canned::default())
                    }
                };
                let frames = Frames::default();
                let connection = Connection {
                    socket,
                    frames,
                    answers,
                    receiving: true,
                    sending: false,
                    listed: false,
                };
                let slot = number(self.connections.insert(connection))?;
                self.receive(ring, slot)
            }
            Event::Received { slot, bytes, more } => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    let Connection { frames, answers, .. } = connection;
                    let whole = frames.take(ring.bytes(&bytes), |id| answers.push(id));
                    if !connection.listed {
                        connection.listed = true;
                        self.answering.push(slot);
                    }
                    if whole == Err(CutOff) || connection.answers.are_too_many() {
                        connection.cut_off();
                    }
                }
                match &mut self.service {
                    Service::Written(files) | Service::Durable(files, _) => files.add(slot, bytes),
                    Service::File(_) => self.dropped.push(bytes),
                }
                if more { Ok(()) } else { self.receive(ring, slot) }
            }
            Event::Starved { slot } => self.receive(ring, slot),
            Event::Ended { slot } => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    connection.receiving = false;
                    // Nobody waits for what is still being sent.
                    connection.cut_off();
                    self.forget(slot);
                }
                Ok(())
            }
            Event::Sent { slot, bytes, whole } => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    connection.sending = false;
                    match &mut connection.answers {
                        Answers::Canned(canned) if whole => canned.give_back(bytes),
                        _ => connection.cut_off(),
                    }
                    self.send(ring, slot)?;
                    self.forget(slot);
                }
                Ok(())
            }
            Event::Writable { slot } => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    connection.sending = false;
                    self.send(ring, slot)?;
                    self.forget(slot);
                }
                Ok(())
            }
            Event::Synced(result) => {
                result?;
                if let Service::Durable(_, commits) = &mut self.service
                    && commits.synced()
                {
                    for slot in std::mem::take(&mut self.committing) {
                        if let Some(connection) = self.connections.get_mut(slot as usize) {
                            if let Answers::Canned(canned) = &mut connection.answers {
                                canned.release();
                            }
                            self.send(ring, slot)?;
                        }
                    }
                }
                Ok(())
            }
            Event::Removed(result) => result,
        }
    }

    /// Appends what has come.
    fn write(&mut self, ring: &mut Ring) -> io::Result<()> {
        match &mut self.service {
            Service::Written(files) => files.write(ring, |_, _| {}),
            Service::Durable(files, commits) => {
                files.write(ring, |file, pieces| commits.add(file, pieces))
            }
            Service::File(_) => {
                ring.give_back(self.dropped.drain(..));
                Ok(())
            }
        }
    }

    /// Sends the turn's answers, or starts the commit that they wait for.
    fn answer(&mut self, ring: &mut Ring) -> io::Result<()> {
        if let Service::Durable(_, commits) = &mut self.service {
            if commits.start(ring)? {
                std::mem::swap(&mut self.answering, &mut self.committing);
                for slot in &self.committing {
                    if let Some(connection) = self.connections.get_mut(*slot as usize) {
                        connection.listed = false;
                        if let Answers::Canned(canned) = &mut connection.answers {
                            canned.commit();
                        }
                    }
                }
            }
            return Ok(());
        }
        let mut answering = std::mem::take(&mut self.answering);
        for slot in answering.drain(..) {
            if let Some(connection) = self.connections.get_mut(slot as usize) {
                connection.listed = false;
                self.send(ring, slot)?;
            }
        }
        self.answering = answering;
        Ok(())
    }

    fn receive(&mut self, ring: &mut Ring, slot: u32) -> io::Result<()> {
        match self.connections.get_mut(slot as usize) {
            Some(connection) => ring.receive(slot, connection.socket.as_fd()),
            None => Ok(()),
        }
    }

    /// Sends what may leave on a connection, unless it sends already.
    fn send(&mut self, ring: &mut Ring, slot: u32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return Ok(()) };
        if connection.sending || !connection.receiving {
            return Ok(());
        }
        let socket = &connection.socket;
        match &mut connection.answers {
            Answers::Canned(canned) => {
                if !matches!(self.service, Service::Durable(..)) {
                    canned.commit();
                    canned.release();
                }
                if let Some(bytes) = canned.take() {
                    connection.sending = true;
                    ring.send(slot, socket.as_fd(), bytes)?;
                }
            }
            Answers::File(file) => match file.send(socket) {
                Ok(Sent::All) => {}
                Ok(Sent::Blocked) => {
                    connection.sending = true;
                    ring.writable(slot, socket.as_fd())?;
                }
                Err(CutOff) => connection.cut_off(),
            },
        }
        Ok(())
    }

    /// Closes a connection that has ended, once the ring has nothing of it.
    fn forget(&mut self, slot: u32) {
        let slot = slot as usize;
        if self.connections.get(slot).is_some_and(|c| !c.receiving && !c.sending) {
            self.connections.remove(slot);
        }
    }
}

fn number(slot: usize) -> io::Result<u32> {
    u32::try_from(slot).map_err(io::Error::other)
}
