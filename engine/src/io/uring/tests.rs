use super::*;
use crate::io::{Conn as _, File as _, Listener as _};
use bytes::Bytes;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A directory of a test's own, removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("kariz-uring-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// The first `len` bytes of the stream called `seed`; no two places in it look alike.
fn stream(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut word = seed;
    while bytes.len() < len {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Sends back all that a connection sends.
async fn echo(conn: Conn) {
    while let Some(chunk) = conn.recv().await.unwrap() {
        conn.send(&chunk, false).await.unwrap();
    }
}

/// Accepts `count` connections, each for a task of its own.
fn serve<F: Future<Output = ()> + 'static>(
    io: &Uring,
    listener: Listener,
    count: usize,
    handle: impl Fn(Conn) -> F + 'static,
) {
    let spawner = io.clone();
    io.spawn(async move {
        for _ in 0..count {
            spawner.spawn(handle(listener.accept().await.unwrap()));
        }
    });
}

/// Runs `client` on a thread of its own and returns its result to the core.
async fn beside<T: Send + 'static>(client: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = tokio::sync::oneshot::channel();
    let thread = thread::spawn(move || done.send(client()).map_err(drop).unwrap());
    let result = result.await;
    thread.join().unwrap();
    result.unwrap()
}

/// Whether nothing of this core is left for the kernel.
fn is_idle(io: &Uring) -> bool {
    io.core.ring.ops().borrow().is_empty()
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        pump::yield_now().await;
    }
}

#[test]
fn many_connections_have_all_sizes_echoed() {
    for (buffers, modern) in [(1, true), (2, true), (2, false), (128, true), (128, false)] {
        Uring::run_with(Sizes { buffers, modern }, None, async |io| {
            let sizes = [1, 2, 511, 512, 513, 4096, 65_535, 65_536, 65_537, 300_000];
            let listener = io.listen(any_port()).unwrap();
            let at = listener.local_addr().unwrap();
            serve(&io, listener, 40, echo);
            beside(move || {
                let clients: Vec<_> = (0..40)
                    .map(|seed| {
                        thread::spawn(move || {
                            let mut socket = TcpStream::connect(at).unwrap();
                            let mut writer = socket.try_clone().unwrap();
                            let sender = thread::spawn(move || {
                                for len in sizes {
                                    writer.write_all(&stream(seed, len)).unwrap();
                                }
                                writer.shutdown(Shutdown::Write).unwrap();
                            });
                            for len in sizes {
                                let mut got = vec![0; len];
                                socket.read_exact(&mut got).unwrap();
                                assert!(got == stream(seed, len), "{len} bytes differ");
                            }
                            assert_eq!(socket.read(&mut [0]).unwrap(), 0);
                            sender.join().unwrap();
                        })
                    })
                    .collect();
                clients.into_iter().for_each(|c| c.join().unwrap());
            })
            .await;
            until(|| is_idle(&io)).await;
        })
        .unwrap();
    }
}

#[test]
fn what_nobody_receives_is_bounded_and_not_lost() {
    // With a limit: a buffer more at most. Without, what the kernel does in one go: 32 buffers.
    for (modern, past) in [(true, 64 << 10), (false, 33 * (64 << 10))] {
        let sizes = Sizes { modern, ..Sizes::default() };
        Uring::run_with(sizes, None, async move |io| nobody_receives(io, past).await).unwrap();
    }
}

async fn nobody_receives(io: Uring, past: usize) {
    const LEN: usize = 8 << 20;
    let listener = io.listen(any_port()).unwrap();
    let at = listener.local_addr().unwrap();
    let sender = thread::spawn(move || {
        TcpStream::connect(at).unwrap().write_all(&stream(1, LEN)).unwrap();
    });
    let conn = listener.accept().await.unwrap();
    let mut got = conn.recv().await.unwrap().unwrap().to_vec();
    // Until the receive is over.
    until(|| conn.ahead() > net::AHEAD_BYTES / 2 && is_idle(&io)).await;
    assert!(conn.ahead() <= net::AHEAD_BYTES + past, "{} bytes ahead", conn.ahead());
    while let Some(chunk) = conn.recv().await.unwrap() {
        got.extend_from_slice(&chunk);
    }
    assert!(got == stream(1, LEN));
    sender.join().unwrap();
}

#[test]
fn chunks_that_are_held_starve_nobody() {
    // Far more half-received requests than buffers: all must still come to their end.
    const LEN: usize = 400_000;
    Uring::run_with(Sizes { buffers: 4, ..Sizes::default() }, None, async |io| {
        let listener = io.listen(any_port()).unwrap();
        let at = listener.local_addr().unwrap();
        let whole = Rc::new(Cell::new(0));
        let counter = Rc::clone(&whole);
        serve(&io, listener, 30, move |conn| {
            let whole = Rc::clone(&counter);
            async move {
                let mut held = VecDeque::new();
                while held.iter().map(Bytes::len).sum::<usize>() < LEN {
                    held.push_back(conn.recv().await.unwrap().unwrap());
                }
                assert!(held.into_iter().flatten().collect::<Vec<u8>>() == stream(2, LEN));
                conn.send(b"!", false).await.unwrap();
                whole.set(whole.get() + 1);
            }
        });
        beside(move || {
            let mut sockets: Vec<_> = (0..30).map(|_| TcpStream::connect(at).unwrap()).collect();
            let bytes = stream(2, LEN);
            for part in bytes.chunks(100_000) {
                for socket in &mut sockets {
                    socket.write_all(part).unwrap();
                }
            }
            for socket in &mut sockets {
                socket.read_exact(&mut [0]).unwrap();
            }
        })
        .await;
        assert_eq!(whole.get(), 30);
    })
    .unwrap();
}

#[test]
fn chunks_can_be_dropped_on_another_thread() {
    Uring::run_with(Sizes { buffers: 4, ..Sizes::default() }, None, async |io| {
        let listener = io.listen(any_port()).unwrap();
        let at = listener.local_addr().unwrap();
        let (send, chunks) = mpsc::channel::<Bytes>();
        let dropper = thread::spawn(move || chunks.into_iter().map(|c| c.len()).sum::<usize>());
        let sender = thread::spawn(move || {
            TcpStream::connect(at).unwrap().write_all(&stream(3, 8 << 20)).unwrap();
        });
        let conn = listener.accept().await.unwrap();
        while let Some(chunk) = conn.recv().await.unwrap() {
            send.send(chunk).unwrap();
        }
        drop(send);
        sender.join().unwrap();
        assert_eq!(dropper.join().unwrap(), 8 << 20);
    })
    .unwrap();
}

#[test]
fn a_big_file_reaches_a_slow_reader_whole() {
    const LEN: usize = 16 << 20;
    Uring::run(None, async |io| {
        let dir = Dir::new();
        let file = io.open(&dir.file("log"), OpenMode::Create).unwrap();
        let bytes = stream(4, LEN);
        assert_eq!(file.write_at(&[IoSlice::new(&bytes)], 0).unwrap(), LEN);
        let listener = io.listen(any_port()).unwrap();
        let at = listener.local_addr().unwrap();
        let (go, gone) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut socket = TcpStream::connect(at).unwrap();
            gone.recv().unwrap(); // not before the sender had to wait
            let mut got = Vec::new();
            socket.read_to_end(&mut got).unwrap();
            got
        });
        let conn = Rc::new(listener.accept().await.unwrap());
        let sender = Rc::clone(&conn);
        let sent = Rc::new(Cell::new(false));
        let done = Rc::clone(&sent);
        io.spawn(async move {
            sender.send(b"head", true).await.unwrap();
            sender.send_file(&file, 1, LEN - 1).await.unwrap();
            done.set(true);
        });
        until(|| !is_idle(&io)).await;
        assert!(!sent.get());
        go.send(()).unwrap();
        until(|| sent.get()).await;
        drop(conn);
        let got = reader.join().unwrap();
        assert!(got[..4] == *b"head" && got[4..] == bytes[1..]);
    })
    .unwrap();
}

#[test]
fn a_file_that_is_too_short_is_an_error() {
    Uring::run(None, async |io| {
        let dir = Dir::new();
        let file = io.open(&dir.file("log"), OpenMode::Create).unwrap();
        file.write_at(&[IoSlice::new(b"four")], 0).unwrap();
        let listener = io.listen(any_port()).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let conn = listener.accept().await.unwrap();
        assert_eq!(conn.peer(), peer.local_addr().unwrap());
        let e = conn.send_file(&file, 2, 3).await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof, "{e}");
    })
    .unwrap();
}

#[test]
fn accepted_sockets_do_not_delay() {
    Uring::run(None, async |io| {
        let listener = io.listen(any_port()).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let conn = listener.accept().await.unwrap();
        assert!(rustix::net::sockopt::tcp_nodelay(conn.fd()).unwrap());
    })
    .unwrap();
}

#[test]
fn close_wakes_a_receive_and_a_send() {
    Uring::run(None, async |io| {
        let listener = io.listen(any_port()).unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let conn = Rc::new(listener.accept().await.unwrap());
        let (receiver, received) = (Rc::clone(&conn), Rc::new(Cell::new(false)));
        let done = Rc::clone(&received);
        io.spawn(async move {
            assert_eq!(receiver.recv().await.unwrap(), None);
            done.set(true);
        });
        let (sender, failed) = (Rc::clone(&conn), Rc::new(Cell::new(false)));
        let done = Rc::clone(&failed);
        io.spawn(async move {
            let much = vec![0; 1 << 20];
            while sender.send(&much, false).await.is_ok() {}
            done.set(true);
        });
        // Until one waits for bytes and the other for room.
        until(|| io.core.ring.ops().borrow().len() == 2).await;
        conn.close();
        until(|| received.get() && failed.get()).await;
        assert!(conn.send(b"late", false).await.is_err());
        peer.read_to_end(&mut Vec::new()).unwrap();
        until(|| is_idle(&io)).await;
    })
    .unwrap();
}

#[test]
fn dropped_futures_leave_nothing_behind() {
    Uring::run(None, async |io| {
        let dir = Dir::new();
        let file = io.open(&dir.file("log"), OpenMode::Create).unwrap();
        file.write_at(&[IoSlice::new(&stream(5, 1 << 20))], 0).unwrap();
        let listener = io.listen(any_port()).unwrap();
        let at = listener.local_addr().unwrap();
        let mut peer = TcpStream::connect(at).unwrap();
        let conn = listener.accept().await.unwrap();
        for round in 0..100_u8 {
            // Each future is begun, then dropped: at once, or after a turn of the ring.
            let begun = async {
                let sync = pin!(file.sync());
                let dir = pin!(io.sync_dir(&dir.0));
                let load = pin!(file.load(0, 1 << 20));
                let accept = pin!(listener.accept());
                let recv = pin!(conn.recv());
                let send = pin!(async {
                    let much = vec![0; 1 << 20];
                    loop {
                        conn.send(&much, false).await.unwrap();
                    }
                });
                tokio::join!(sync, dir, load, accept, recv, send);
            };
            tokio::select! {
                biased;
                () = begun => unreachable!("nobody connects"),
                () = async {
                    for _ in 0..round % 4 {
                        pump::yield_now().await;
                    }
                } => {}
            }
        }
        // A receive that was dropped lost nothing.
        peer.write_all(b"still").unwrap();
        assert_eq!(conn.recv().await.unwrap().unwrap(), &b"still"[..]);
        drop(conn);
        drop(listener);
        until(|| is_idle(&io)).await;
        assert!(TcpStream::connect(at).is_err(), "the listener is still open");
    })
    .unwrap();
}

#[test]
fn more_operations_than_the_queue_holds_all_complete() {
    Uring::run(None, async |io| {
        let dir = Dir::new();
        let file = io.open(&dir.file("log"), OpenMode::Create).unwrap();
        let syncs: Vec<_> = (0..1000).map(|_| file.sync()).collect();
        for sync in syncs {
            sync.await.unwrap();
        }
        assert!(is_idle(&io));
    })
    .unwrap();
}

#[test]
fn a_core_ends_with_operations_in_flight() {
    for _ in 0..20 {
        let dir = Dir::new();
        let chunk = Uring::run(None, async |io| {
            let file = io.open(&dir.file("log"), OpenMode::Create).unwrap();
            file.write_at(&[IoSlice::new(&stream(6, 1 << 20))], 0).unwrap();
            let listener = io.listen(any_port()).unwrap();
            let at = listener.local_addr().unwrap();
            serve(&io, listener, 10, echo);
            let mut peers: Vec<_> = (0..5).map(|_| TcpStream::connect(at).unwrap()).collect();
            for peer in &mut peers {
                peer.write_all(b"ping").unwrap();
            }
            let other = io.listen(any_port()).unwrap();
            let mut peer = TcpStream::connect(other.local_addr().unwrap()).unwrap();
            peer.write_all(&stream(7, 4096)).unwrap();
            let chunk = other.accept().await.unwrap().recv().await.unwrap().unwrap();
            drop(file.sync());
            chunk
        })
        .unwrap();
        // What was received may outlive the core that received it.
        assert!(!chunk.is_empty() && chunk[..] == stream(7, chunk.len()));
    }
}

#[test]
fn what_is_synced_and_loaded_reads_back() {
    Uring::run(None, async |io| {
        let dir = Dir::new();
        let path = dir.file("a/b");
        io.create_dir(&path).unwrap();
        io.create_dir(&path).unwrap();
        let file = io.open(&path.join("log"), OpenMode::Create).unwrap();
        file.preallocate(0, 8 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 0);
        let bytes = stream(8, 3_000_000);
        // More slices than one call takes.
        let mut at = 0;
        while at < bytes.len() {
            let slices: Vec<_> = bytes[at..].chunks(1000).map(IoSlice::new).collect();
            at += file.write_at(&slices, at as u64).unwrap();
        }
        file.sync().await.unwrap();
        io.sync_dir(&path).await.unwrap();
        // Out of the page cache, then in again.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert!(!file.is_resident(0, 3_000_000));
        file.load(0, 3_000_000).await.unwrap();
        assert!(file.is_resident(0, 3_000_000) && file.is_resident(2_999_999, 100));
        file.load(2_999_999, usize::MAX).await.unwrap(); // past the end
        file.load(5_000_000, 1).await.unwrap();
        let mut got = vec![0; 3_000_001];
        assert_eq!(file.read_at(&mut got, 0).unwrap(), 3_000_000);
        assert!(got[..3_000_000] == bytes);
        file.set_len(10).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        io.rename(&path.join("log"), &path.join("moved")).unwrap();
        let names = |entries: Vec<Entry>| entries.into_iter().map(|e| (e.name, e.is_dir));
        assert!(names(io.list(&path).unwrap()).eq([("moved".to_owned(), false)]));
        assert!(names(io.list(&dir.file("a")).unwrap()).eq([("b".to_owned(), true)]));
        io.remove_file(&path.join("moved")).unwrap();
        assert_eq!(file.read_at(&mut got, 0).unwrap(), 10, "unlinked, still open");
        assert_eq!(
            io.open(&path.join("moved"), OpenMode::Read).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(io.sync_dir(&path.join("moved")).await.is_err());
        io.remove_dir(&dir.file("a")).unwrap();
    })
    .unwrap();
}

#[test]
fn a_file_syncs_on_the_core_it_is_sent_to_and_nowhere_else() {
    let dir = Dir::new();
    let file = Uring::run(None, async |io| io.open(&dir.file("log"), OpenMode::Create)).unwrap();
    let file = file.unwrap();
    Uring::run(None, async |_| file.sync().await.unwrap()).unwrap();
    let mut cx = std::task::Context::from_waker(Waker::noop());
    let outcome = pin!(file.sync()).poll(&mut cx);
    assert!(matches!(outcome, Poll::Ready(Err(_))), "{outcome:?}");
}

#[test]
fn time_passes_and_random_numbers_differ() {
    Uring::run(None, async |io| {
        let before = io.now();
        io.sleep(Duration::from_millis(20)).await;
        assert!(io.now() - before >= Duration::from_millis(20));
        let never = io.sleep_until(Instant(Duration::MAX));
        assert!(pin!(never).poll(&mut std::task::Context::from_waker(Waker::noop())).is_pending());
        assert!(io.timestamp() > Timestamp(1_700_000_000_000));
        assert_ne!(io.random(), io.random());
    })
    .unwrap();
}

#[test]
fn tasks_run_in_the_order_they_were_woken() {
    Uring::run(None, async |io| {
        let order = Rc::new(RefCell::new(Vec::new()));
        for i in 0..100 {
            let order = Rc::clone(&order);
            io.spawn(async move { order.borrow_mut().push(i) });
        }
        until(|| order.borrow().len() == 100).await;
        assert!(order.borrow().is_sorted());
    })
    .unwrap();
}

#[test]
fn tasks_can_be_spawned_before_the_main_future_runs() {
    Uring::run(None, |io| {
        let (done, result) = tokio::sync::oneshot::channel();
        io.spawn(async { done.send(7).unwrap() });
        async { assert_eq!(result.await.unwrap(), 7) }
    })
    .unwrap();
}

#[test]
fn a_tasks_panic_goes_on_in_run() {
    let caught = catch_unwind(|| {
        Uring::run(None, async |io| {
            io.spawn(async { panic!("the task's") });
            future::pending::<()>().await;
        })
    });
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"the task's"));
    Uring::run(None, async |_| ()).unwrap(); // the thread is free for another core
}

#[test]
fn a_thread_is_one_core_at_most() {
    Uring::run(None, async |_| Uring::run(None, async |_| ()).unwrap_err()).unwrap();
    let e = Uring::run(Some(1_000_000), async |_| ()).unwrap_err();
    assert!(e.to_string().contains("1000000"), "{e}");
}

#[test]
fn workers_stay_on_the_core() {
    let dir = Dir::new();
    thread::spawn(move || {
        let cpu = core_affinity::get_core_ids().unwrap().last().unwrap().id;
        Uring::run(Some(cpu), async |io| {
            let file = io.open(&dir.file("log"), OpenMode::Create).unwrap();
            file.sync().await.unwrap();
            let own = format!("iou-wrk-{}", rustix::thread::gettid().as_raw_nonzero());
            let workers = fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
                let status = fs::read_to_string(task.unwrap().path().join("status")).ok()?;
                let field =
                    |name| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim();
                (field("Name:") == own).then(|| field("Cpus_allowed_list:").to_owned())
            });
            let allowed: Vec<_> = workers.collect();
            assert!(
                !allowed.is_empty() && allowed.iter().all(|a| *a == cpu.to_string()),
                "{allowed:?}"
            );
        })
        .unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn a_large_file_that_was_unlinked_is_closed_once_its_last_clone_is_gone() {
    let dir = Dir::new();
    let path = dir.file("large");
    let open = || {
        // An unlinked file's link reads as its path and ` (deleted)`.
        let name = path.to_string_lossy().into_owned();
        fs::read_dir("/proc/self/fd").unwrap().flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with(&name))
        })
    };
    let file = File::open(&path, OpenMode::Create).unwrap();
    file.set_len(8 << 20).unwrap();
    let reader = file.clone();
    fs::remove_file(&path).unwrap();
    drop(file);
    let mut byte = [1];
    assert_eq!(reader.read_at(&mut byte, 0).unwrap(), 1, "a reader keeps it");
    assert!(open());
    drop(reader);
    let closed = (0..200_000).any(|_| {
        thread::yield_now();
        !open()
    });
    assert!(closed, "it was never closed");
}
