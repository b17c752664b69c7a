//! Connections.

use super::{LOG, durable_file, world};
use crate::io::sim::{Faults, Sim, SimConn, World};
use crate::io::{Conn, Io, Listener};
use std::cell::Cell;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn at() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9092))
}

/// Both ends of a connection: the client's, and the server's.
async fn pair(io: &Sim) -> (SimConn, SimConn) {
    let listener = io.listen(at()).unwrap();
    let client = io.connect(at()).await.unwrap();
    (client, listener.accept().await.unwrap())
}

/// Runs `main` on a world of `seed` with sockets of `socket_bytes`.
fn run<T: 'static, F: Future<Output = T> + 'static>(
    seed: u64,
    socket_bytes: usize,
    main: impl FnOnce(Sim) -> F,
) -> T {
    let mut world = World::new(seed, Faults { socket_bytes, ..Faults::none() });
    world.boot(main).done()
}

async fn recv_all(conn: &SimConn) -> (Vec<u8>, usize) {
    let (mut all, mut chunks) = (Vec::new(), 0);
    while let Some(bytes) = conn.recv().await.unwrap() {
        assert!(!bytes.is_empty());
        all.extend_from_slice(&bytes);
        chunks += 1;
    }
    (all, chunks)
}

#[test]
fn a_stream_arrives_whole_and_in_order_in_any_split() {
    let sent: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
    let mut splits = std::collections::BTreeSet::new();
    for seed in 0..20 {
        for socket_bytes in [1, 300, 65_536] {
            let expected = if socket_bytes == 1 { sent[..500].to_vec() } else { sent.clone() };
            let bytes = expected.clone();
            let (received, chunks) = run(seed, socket_bytes, |io| async move {
                let (client, server) = pair(&io).await;
                io.spawn(async move {
                    for part in bytes.chunks(7_777) {
                        client.send(part, true).await.unwrap();
                    }
                });
                recv_all(&server).await
            });
            assert!(received == expected);
            splits.insert(chunks);
        }
    }
    assert!(splits.len() > 20, "{splits:?}");
}

#[test]
fn a_sender_waits_for_a_receiver_that_does_not_receive() {
    run(1, 1000, |io| async move {
        let (client, server) = pair(&io).await;
        let sent = Rc::new(Cell::new(0));
        let count = Rc::clone(&sent);
        io.spawn(async move {
            for _ in 0..100 {
                client.send(&[1; 100], false).await.unwrap();
                count.set(count.get() + 100);
            }
        });
        io.sleep(MS * 1000).await;
        assert_eq!(sent.get(), 1000);
        let mut received = 0;
        while received < 500 {
            received += server.recv().await.unwrap().unwrap().len();
        }
        io.sleep(MS * 1000).await;
        assert!(sent.get() <= 1000 + received && sent.get() > 1300);
        assert_eq!(recv_all(&server).await.0.len() + received, 10_000);
    });
}

#[test]
fn a_close_ends_both_directions_on_both_sides() {
    run(1, 1000, |io| async move {
        let (client, server) = pair(&io).await;
        let (client, server) = (Rc::new(client), Rc::new(server));
        client.send(b"last words", false).await.unwrap();
        let (here, closer) = (Rc::clone(&client), io.clone());
        io.spawn(async move {
            closer.sleep(MS * 10).await;
            here.close();
            assert!(here.send(b"more", false).await.is_err());
        });
        assert_eq!(client.recv().await.unwrap(), None);
        assert_eq!(client.recv().await.unwrap(), None);
        assert_eq!(recv_all(&server).await.0, b"last words");
        io.sleep(MS * 10).await;
        assert_eq!(server.send(b"x", false).await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_close_wakes_a_sender_that_waits_for_room() {
    run(1, 10, |io| async move {
        for by_peer in [false, true] {
            let (client, server) = pair(&io).await;
            let (client, server) = (Rc::new(client), Rc::new(server));
            let closer = Rc::clone(if by_peer { &server } else { &client });
            let timer = io.clone();
            io.spawn(async move {
                timer.sleep(MS * 10).await;
                closer.close();
            });
            let mut sent = Ok(());
            while sent.is_ok() {
                sent = client.send(&[0; 1000], false).await;
                io.sleep(MS).await;
            }
            assert_eq!(sent.unwrap_err().kind(), ErrorKind::BrokenPipe);
        }
    });
}

#[test]
fn a_dropped_connection_is_closed_and_forgotten() {
    run(1, 1000, |io| async move {
        for _ in 0..10 {
            let (client, server) = pair(&io).await;
            drop(client);
            assert_eq!(server.recv().await.unwrap(), None);
        }
        assert_eq!(io.shared.lock().net.open_pipes(), 0);
    });
}

#[test]
fn a_close_over_unread_bytes_can_reset() {
    let reset = |seed| {
        run(seed, 1000, |io| async move {
            let (client, server) = pair(&io).await;
            client.send(b"nobody reads this", false).await.unwrap();
            server.send(b"an answer", false).await.unwrap();
            drop(server);
            let mut received = 0;
            loop {
                match client.recv().await {
                    Ok(Some(bytes)) => received += bytes.len(),
                    ended => {
                        assert_eq!(received, 9);
                        return ended.is_err();
                    }
                }
            }
        })
    };
    let resets = super::count(100, reset);
    assert!((20..80).contains(&resets), "{resets}");
}

#[test]
fn resets_by_chance_cut_both_ends() {
    let faults = Faults { connection_reset: 1.0, ..Faults::none() };
    let main = |io: Sim| async move {
        let (client, server) = pair(&io).await;
        let kind = client.send(b"x", false).await.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::ConnectionReset);
        assert_eq!(server.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(client.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    };
    World::new(1, faults).boot(main).done();
}

#[test]
fn a_file_is_sent_as_it_is_and_only_where_it_is() {
    run(1, 1000, |io| async move {
        let bytes: Vec<u8> = (0..5000_u32).map(|n| (n % 241) as u8).collect();
        let file = durable_file(&io, LOG, &bytes).await.unwrap();
        let (client, server) = pair(&io).await;
        io.spawn(async move {
            client.send_file(&file, 100, 4000).await.unwrap();
            client.send_file(&file, 100, 0).await.unwrap();
            let short = client.send_file(&file, 4900, 101).await.unwrap_err();
            assert_eq!(short.kind(), ErrorKind::UnexpectedEof);
        });
        let received = recv_all(&server).await.0;
        assert!(received[..4000] == bytes[100..4100]);
    });
}

#[test]
fn addresses_are_taken_free_or_refused() {
    let mut world = world(1);
    let main = |io: Sim| async move {
        let refused = io.connect(at()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let listener = io.listen(at()).unwrap();
        assert_eq!(io.listen(at()).unwrap_err().kind(), ErrorKind::AddrInUse);
        let mut any = at();
        any.set_port(0);
        let free = io.listen(any).unwrap().local_addr().unwrap();
        assert_ne!(free.port(), 0);
        // Dropped with a connection in its backlog, it resets that.
        let waiting = io.connect(at()).await.unwrap();
        drop(listener);
        assert_eq!(waiting.recv().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        drop(io.listen(at()).unwrap());
    };
    world.boot(main).done();
}

#[test]
fn many_connections_live_side_by_side() {
    run(3, 4096, |io| async move {
        let listener = io.listen(at()).unwrap();
        let server = io.clone();
        io.spawn(async move {
            loop {
                let conn = listener.accept().await.unwrap();
                server.spawn(async move {
                    while let Ok(Some(bytes)) = conn.recv().await {
                        conn.send(&bytes, false).await.unwrap();
                    }
                });
            }
        });
        let done = Rc::new(Cell::new(0));
        for n in 0..300_u32 {
            let (done, dial) = (Rc::clone(&done), io.connect(at()));
            io.spawn(async move {
                let conn = dial.await.unwrap();
                conn.send(&n.to_be_bytes(), false).await.unwrap();
                let mut echo = Vec::new();
                while echo.len() < 4 {
                    echo.extend_from_slice(&conn.recv().await.unwrap().unwrap());
                }
                assert_eq!(echo, n.to_be_bytes());
                done.set(done.get() + 1);
            });
        }
        while done.get() < 300 {
            io.sleep(MS).await;
        }
    });
}
