//! Connections.

use super::{Arm, MS, Peer, create, kind, stream, write};
use kariz_engine::io::{Conn, Io, Listener};
use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

type Accepted<A> = <<A as Arm>::Io as Io>::Conn;

/// A connection and its peer.
async fn pair<A: Arm>(arm: &A) -> (Accepted<A>, A::Peer) {
    let listener = arm.io().listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let peer = arm.dial(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap(), peer)
}

/// Receives to the end.
async fn recv_all<C: Conn>(conn: &C) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = conn.recv().await.unwrap() {
        assert!(!bytes.is_empty(), "an empty chunk is no end");
        all.extend_from_slice(&bytes);
    }
    all
}

async fn peer_recv<P: Peer>(peer: &mut P, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        let bytes = peer.recv().await.unwrap();
        assert!(!bytes.is_empty(), "the stream ends after {} of {len} bytes", all.len());
        all.extend(bytes);
    }
    all
}

pub(crate) async fn a_listener_knows_its_address<A: Arm>(arm: A) {
    let listener = arm.io().listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let at = listener.local_addr().unwrap();
    assert!(at.ip().is_loopback() && at.port() != 0);
    let peers = [arm.dial(at).await.unwrap(), arm.dial(at).await.unwrap()];
    let (first, second) = (listener.accept().await.unwrap(), listener.accept().await.unwrap());
    assert!(first.peer().ip().is_loopback());
    assert_ne!(first.peer(), second.peer());
    peers.into_iter().for_each(Peer::close);
}

pub(crate) async fn bytes_arrive_whole_and_in_order<A: Arm>(arm: A) {
    let (conn, mut peer) = pair(&arm).await;
    let bytes = stream(1 << 20);
    let (up, expected) = (bytes.clone(), bytes.clone());
    let conn = Rc::new(conn);
    let receiver = Rc::clone(&conn);
    let received = Rc::new(Cell::new(false));
    let done = Rc::clone(&received);
    arm.io().spawn(async move {
        let mut all = Vec::new();
        while all.len() < 1 << 20 {
            all.extend_from_slice(&receiver.recv().await.unwrap().unwrap());
        }
        assert!(all == expected);
        done.set(true);
    });
    peer.send(up).await.unwrap();
    // One task receives while another sends.
    let (sender, down) = (Rc::clone(&conn), bytes.clone());
    arm.io().spawn(async move {
        for (i, part) in down.chunks(77_777).enumerate() {
            sender.send(part, i % 2 == 0).await.unwrap();
        }
        sender.send(b"", false).await.unwrap();
    });
    assert!(peer_recv(&mut peer, 1 << 20).await == bytes);
    while !received.get() {
        arm.io().sleep(MS).await;
    }
}

pub(crate) async fn the_end_of_the_peer_is_the_end_of_the_stream<A: Arm>(arm: A) {
    let (conn, mut peer) = pair(&arm).await;
    peer.send(b"last words".to_vec()).await.unwrap();
    peer.close();
    assert_eq!(recv_all(&conn).await, b"last words");
    assert_eq!(conn.recv().await.unwrap(), None);
}

pub(crate) async fn closing_wakes_who_receives<A: Arm>(arm: A) {
    let (conn, peer) = pair(&arm).await;
    let conn = Rc::new(conn);
    let (closer, timer) = (Rc::clone(&conn), arm.io().clone());
    arm.io().spawn(async move {
        timer.sleep(MS * 5).await;
        closer.close();
        closer.close();
    });
    assert_eq!(conn.recv().await.unwrap(), None);
    assert_eq!(conn.recv().await.unwrap(), None);
    peer.close();
}

pub(crate) async fn closing_wakes_who_sends<A: Arm>(arm: A) {
    let (conn, peer) = pair(&arm).await;
    let conn = Rc::new(conn);
    let (closer, timer) = (Rc::clone(&conn), arm.io().clone());
    arm.io().spawn(async move {
        timer.sleep(MS * 20).await;
        closer.close();
    });
    // More than any socket holds, and the peer receives nothing.
    assert!(conn.send(&stream(64 << 20), false).await.is_err());
    peer.close();
}

pub(crate) async fn a_closed_connection_sends_nothing<A: Arm>(arm: A) {
    let (conn, mut peer) = pair(&arm).await;
    let file = create(&arm, "f");
    write(&file, b"abc", 0);
    conn.close();
    assert_eq!(kind(conn.send(b"x", false).await), Some(ErrorKind::BrokenPipe));
    assert_eq!(kind(conn.send_file(&file, 0, 3).await), Some(ErrorKind::BrokenPipe));
    assert_eq!(peer.recv().await.unwrap(), b"");
}

pub(crate) async fn closing_ends_the_peers_stream<A: Arm>(arm: A) {
    let (conn, mut peer) = pair(&arm).await;
    conn.send(b"last words", false).await.unwrap();
    conn.close();
    assert_eq!(peer_recv(&mut peer, 10).await, b"last words");
    assert_eq!(peer.recv().await.unwrap(), b"");
}

pub(crate) async fn dropping_closes<A: Arm>(arm: A) {
    let (conn, mut peer) = pair(&arm).await;
    drop(conn);
    assert_eq!(peer.recv().await.unwrap(), b"");
}

pub(crate) async fn a_slow_reader_slows_the_sender<A: Arm>(arm: A) {
    const LEN: usize = 24 << 20;
    let (conn, mut peer) = pair(&arm).await;
    let conn = Rc::new(conn);
    let (sender, sent) = (Rc::clone(&conn), Rc::new(Cell::new(0)));
    let count = Rc::clone(&sent);
    arm.io().spawn(async move {
        for part in stream(LEN).chunks(1 << 20) {
            sender.send(part, false).await.unwrap();
            count.set(count.get() + part.len());
        }
        sender.close();
    });
    arm.io().sleep(MS * 20).await;
    assert!(sent.get() < LEN, "{} bytes sent, and nobody receives", sent.get());
    assert!(peer_recv(&mut peer, LEN).await == stream(LEN));
    assert_eq!(peer.recv().await.unwrap(), b"");
    assert_eq!(sent.get(), LEN);
}

pub(crate) async fn files_are_sent_between_bytes<A: Arm>(arm: A) {
    let (conn, mut peer) = pair(&arm).await;
    let file = create(&arm, "f");
    let bytes = stream(3 << 20);
    write(&file, &bytes, 0);
    let unlinked = arm.dir().join("f");
    arm.io().remove_file(&unlinked).unwrap();
    arm.io().spawn(async move {
        conn.send(b"head", true).await.unwrap();
        conn.send_file(&file, 1000, 2 << 20).await.unwrap();
        conn.send_file(&file, 0, 0).await.unwrap();
        conn.send(b"tail", false).await.unwrap();
        conn.close();
    });
    let expected = [b"head", &bytes[1000..1000 + (2 << 20)], b"tail"].concat();
    assert!(peer_recv(&mut peer, expected.len()).await == expected);
    assert_eq!(peer.recv().await.unwrap(), b"");
}

pub(crate) async fn a_file_too_short_to_send_is_an_error<A: Arm>(arm: A) {
    let (conn, mut peer) = pair(&arm).await;
    let file = create(&arm, "f");
    write(&file, &stream(1000), 0);
    let short = conn.send_file(&file, 500, 501).await;
    assert_eq!(kind(short), Some(ErrorKind::UnexpectedEof));
    conn.close();
    // Some of it may have gone, none of it twice.
    let mut received = Vec::new();
    loop {
        let bytes = peer.recv().await.unwrap();
        if bytes.is_empty() {
            break;
        }
        received.extend(bytes);
    }
    assert!(stream(1000)[500..].starts_with(&received));
}

pub(crate) async fn many_connections_are_served<A: Arm>(arm: A) {
    const COUNT: u32 = 64;
    let io = arm.io().clone();
    let listener = io.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let at = listener.local_addr().unwrap();
    let spawner = io.clone();
    io.spawn(async move {
        for _ in 0..COUNT {
            let conn = listener.accept().await.unwrap();
            spawner.spawn(async move {
                while let Some(bytes) = conn.recv().await.unwrap() {
                    conn.send(&bytes, false).await.unwrap();
                }
            });
        }
    });
    let done = Rc::new(Cell::new(0));
    for n in 0..COUNT {
        let (arm, done) = (arm.clone(), Rc::clone(&done));
        io.spawn(async move {
            let mut peer = arm.dial(at).await.unwrap();
            for round in 0..5 {
                let sent = stream(1 + (n * 100 + round) as usize);
                peer.send(sent.clone()).await.unwrap();
                assert!(peer_recv(&mut peer, sent.len()).await == sent);
            }
            peer.close();
            done.set(done.get() + 1);
        });
    }
    while done.get() < COUNT {
        io.sleep(MS).await;
    }
}
