//! The transport over loopback, with real executors: hand-over, limits, garbage, slow peers, many frames.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failed test may panic")]

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use equeue_net::Code;
use equeue_net::api::{
    GetCluster, GetClusterAnswer, Heartbeat, HeartbeatAnswer, Hello, HelloAnswer, Message, Produce, Status,
};
use equeue_net::frame::{FLAG_ANSWER, FRAME_BYTES_MAX, FRAME_HEADER_LEN, Frame, put_frame, take_frame};
use equeue_net::preamble::{PREAMBLE_LEN, Preamble, Purpose};
use equeue_net::transport::dialer::{DialError, Dialer, DialerConfig};
use equeue_net::transport::listener::{Accepted, Permits, accept, bind};
use equeue_net::transport::{CloseReason, Connection, ConnectionLimits, Connections, Handler, Hold, Shared};
use glommio::{LocalExecutorBuilder, Placement};

/// Answers each kind in a way of its own; what happened to the connections is told through `closed`.
struct Echo {
    closed: mpsc::Sender<String>,
    held: Vec<Hold>,
    memory: Rc<Vec<u8>>,
}

const MEMORY_BYTES: usize = 1 << 20;

impl Handler for Echo {
    fn on_frames(&mut self, connection: &Rc<Connection>, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            let correlation = frame.head.correlation;
            let pushed = match frame.head.kind {
                1 => {
                    connection.set_opened();
                    let answer = HelloAnswer { version: 1, ..HelloAnswer::default() };
                    connection.push(|out| put_frame(out, &answer, FLAG_ANSWER, correlation, 0))
                }
                // The detail tells how many bytes of payload came.
                63 => {
                    let asked = GetCluster::decode(&frame.header).unwrap().cluster;
                    let detail = format!("{asked} {}", frame.payload.len());
                    let answer = GetClusterAnswer { status: Status::new(Code::Ok, detail), brokers: vec![] };
                    connection.push(|out| put_frame(out, &answer, FLAG_ANSWER, correlation, 0))
                }
                // Much memory as payload, sent from where it lies.
                3 => {
                    let answer = HeartbeatAnswer::default();
                    let pushed = connection
                        .push(|out| put_frame(out, &answer, FLAG_ANSWER, correlation, MEMORY_BYTES));
                    connection
                        .push_shared(Shared { memory: self.memory.clone(), range: 0..MEMORY_BYTES / 2 });
                    let range = MEMORY_BYTES / 2..MEMORY_BYTES;
                    connection.push_shared(Shared { memory: self.memory.clone(), range });
                    pushed
                }
                // Held until a frame of kind 11 comes.
                10 => {
                    self.held.push(connection.hold(frame.payload.len()));
                    Ok(())
                }
                // The whole executor stands still for the time that the payload tells.
                12 => {
                    std::thread::sleep(Duration::from_millis(frame.payload.len() as u64));
                    let answer = HeartbeatAnswer::default();
                    connection.push(|out| put_frame(out, &answer, FLAG_ANSWER, correlation, 0))
                }
                11 => {
                    connection.finish(CloseReason::Refused("as asked"));
                    let last: Result<(), Infallible> = connection.push(|out| {
                        out.extend_from_slice(b"the end");
                        Ok(())
                    });
                    last.unwrap();
                    Ok(())
                }
                _ => Ok(()),
            };
            pushed.unwrap();
        }
        if let Some(last) = self.held.first().filter(|_| self.held.len() >= 4) {
            // Later, and not from this task: held bytes keep the connection from being read.
            let connection = last.connection().clone();
            let held = std::mem::take(&mut self.held);
            glommio::spawn_local(async move {
                glommio::timer::sleep(Duration::from_millis(50)).await;
                let answer = GetClusterAnswer::default();
                connection.push(|out| put_frame(out, &answer, FLAG_ANSWER, 99, 0)).unwrap();
                drop(held);
                connection.kick();
            })
            .detach();
        }
    }

    fn on_close(&mut self, _: &Rc<Connection>, reason: &CloseReason) {
        let _ = self.closed.send(format!("{reason:?}"));
    }
}

struct Server {
    address: SocketAddr,
    closed: mpsc::Receiver<String>,
    stop: mpsc::Sender<()>,
    permits: Permits,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// An executor that serves what it accepts.
    fn start(limits: ConnectionLimits, connections_max: usize) -> Self {
        let (closed_sender, closed) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let listener = bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let permits = Permits::new(connections_max);
        let shared_permits = permits.clone();
        let thread = std::thread::spawn(move || {
            executor(async move {
                let connections = Connections::new(limits);
                let memory = Rc::new(pattern());
                let serving = connections.clone();
                let accepting = glommio::spawn_local(accept(
                    listener,
                    shared_permits,
                    Duration::from_millis(300),
                    move |accepted: Accepted| {
                        let closed = closed_sender.clone();
                        let memory = memory.clone();
                        serving
                            .serve(accepted.fd, accepted.peer, accepted.permit, |_| Echo {
                                closed,
                                held: vec![],
                                memory,
                            })
                            .unwrap();
                    },
                ));
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    glommio::timer::sleep(Duration::from_millis(5)).await;
                }
                accepting.cancel().await;
                connections.finish_all();
                connections.drained().await;
            });
        });
        Self { address, closed, stop, permits, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let mut peer = TcpStream::connect(self.address).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        peer.set_nodelay(true).unwrap();
        let preamble = Preamble { shard: None, purpose: Purpose::Admin, tls: false };
        peer.write_all(&preamble.encode()).unwrap();
        peer
    }

    /// Connected, and Hello said.
    fn open(&self) -> TcpStream {
        let mut peer = self.connect();
        peer.write_all(&hello()).unwrap();
        let frame = read_frame(&mut peer, &mut BytesMut::new());
        assert_eq!(HelloAnswer::decode(&frame.header).unwrap().version, 1);
        peer
    }

    fn next_closed(&self) -> String {
        self.closed.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        let joined = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            joined.unwrap();
        }
    }
}

fn executor<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).make().unwrap().run(future)
}

fn pattern() -> Vec<u8> {
    (0..MEMORY_BYTES).map(|at| u8::try_from(at % 253).unwrap()).collect()
}

fn frame<M: Message>(message: &M, correlation: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, message, 0, correlation, payload.len()).unwrap();
    out.extend_from_slice(payload);
    out
}

fn hello() -> Vec<u8> {
    frame(&Hello { version_min: 1, version_max: 1, client_id: "test".into(), incarnation: 7 }, 1, b"")
}

fn ask(name: &str) -> GetCluster {
    GetCluster { cluster: name.to_owned() }
}

fn read_frame(peer: &mut TcpStream, buffer: &mut BytesMut) -> Frame {
    loop {
        if let Some(frame) = take_frame(buffer, FRAME_BYTES_MAX).unwrap() {
            return frame;
        }
        let mut chunk = [0; 8192];
        let read = match peer.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.unwrap(),
        };
        assert_ne!(read, 0, "the server closed the connection");
        buffer.extend_from_slice(&chunk[..read]);
    }
}

/// Until the server ends the connection; a reset is an end as well.
fn read_to_end(peer: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match peer.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    all
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn many_pipelined_frames_are_answered_in_order_however_they_are_cut() {
    let server = Server::start(ConnectionLimits::default(), 10);
    let mut peer = server.open();
    let payload = vec![5; 3000];
    let mut wire = Vec::new();
    for number in 0..3000_u32 {
        let len = number as usize % payload.len();
        wire.extend(frame(&ask(&number.to_string()), number, &payload[..len]));
    }
    let mut writing = peer.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        // Cut at ever other places, from single bytes to many frames at once.
        let mut rest = &wire[..];
        for size in [1, 7, 100, 4096, 70_000, 300_000].into_iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(size));
            writing.write_all(now).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
    });
    let mut buffer = BytesMut::new();
    for number in 0..3000_u32 {
        let answer = read_frame(&mut peer, &mut buffer);
        assert_eq!(answer.head.correlation, number);
        assert_eq!(answer.head.flags, FLAG_ANSWER);
        let status = GetClusterAnswer::decode(&answer.header).unwrap().status;
        assert_eq!(status.detail, format!("{number} {}", number as usize % payload.len()));
    }
    writer.join().unwrap();
    drop(peer);
    assert_eq!(server.next_closed(), "PeerClosed");
}

#[test]
fn a_frame_larger_than_the_read_buffer_arrives_whole() {
    let server = Server::start(ConnectionLimits::default(), 10);
    let mut peer = server.open();
    let payload = vec![1; 5 << 20];
    let mut buffer = BytesMut::new();
    for number in 0..3 {
        peer.write_all(&frame(&ask("big"), number, &payload)).unwrap();
        let answer = read_frame(&mut peer, &mut buffer);
        let status = GetClusterAnswer::decode(&answer.header).unwrap().status;
        assert_eq!(status.detail, format!("big {}", 5 << 20));
    }
}

#[test]
fn a_frame_over_the_limit_ends_the_connection() {
    let limits = ConnectionLimits { frame_bytes_max: 100_000, ..ConnectionLimits::default() };
    let server = Server::start(limits, 10);
    let mut peer = server.open();
    peer.write_all(&frame(&ask("ok"), 1, &vec![0; 90_000])).unwrap();
    read_frame(&mut peer, &mut BytesMut::new());
    peer.write_all(&frame(&ask("too large"), 2, &vec![0; 100_000])[..20]).unwrap();
    assert!(read_to_end(&mut peer).is_empty());
    assert!(server.next_closed().starts_with("Frame(TooLarge { length: 100"), "the limit is told");
}

#[test]
fn before_hello_frames_are_small() {
    let server = Server::start(ConnectionLimits::default(), 10);
    let mut peer = server.connect();
    peer.write_all(&frame(&ask("early"), 1, &vec![0; 65 << 10])[..FRAME_HEADER_LEN]).unwrap();
    assert!(read_to_end(&mut peer).is_empty());
    assert!(server.next_closed().starts_with("Frame(TooLarge"));
}

#[test]
fn garbage_and_cut_frames_end_the_connection() {
    let server = Server::start(ConnectionLimits::default(), 10);
    let mut peer = server.open();
    peer.write_all(b"\x20\0\0\0GET / HTTP/1.1\r\n").unwrap();
    assert!(read_to_end(&mut peer).is_empty());
    assert!(server.next_closed().starts_with("Frame(Version"));

    let mut peer = server.open();
    let whole = frame(&ask("cut"), 1, b"abc");
    peer.write_all(&whole[..whole.len() - 1]).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&mut peer).is_empty());
    assert_eq!(server.next_closed(), format!("Truncated {{ bytes: {} }}", whole.len() - 1));
}

#[test]
fn bad_late_and_missing_preambles_are_refused() {
    let server = Server::start(ConnectionLimits::default(), 10);
    let mut peer = TcpStream::connect(server.address).unwrap();
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(read_to_end(&mut peer).is_empty());

    let mut late = TcpStream::connect(server.address).unwrap();
    late.write_all(&Preamble { shard: None, purpose: Purpose::Admin, tls: false }.encode()[..15]).unwrap();
    let begun = Instant::now();
    assert!(read_to_end(&mut late).is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(250), "the deadline was not waited for");

    let mut secret = TcpStream::connect(server.address).unwrap();
    secret.write_all(&Preamble { shard: None, purpose: Purpose::Admin, tls: true }.encode()).unwrap();
    assert!(read_to_end(&mut secret).is_empty(), "TLS is not spoken yet");

    drop(TcpStream::connect(server.address).unwrap());
    eventually("permits are given back", || server.permits.open() == 0);
    assert!(server.closed.try_recv().is_err(), "none of them was served");
}

#[test]
fn a_preamble_that_comes_byte_by_byte_is_read_and_nothing_after_it() {
    let server = Server::start(ConnectionLimits::default(), 10);
    let mut peer = TcpStream::connect(server.address).unwrap();
    peer.set_nodelay(true).unwrap();
    for byte in (Preamble { shard: Some(3), purpose: Purpose::Produce, tls: false }).encode() {
        peer.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    peer.write_all(&hello()).unwrap();
    let frame = read_frame(&mut peer, &mut BytesMut::new());
    assert_eq!(frame.head.correlation, 1);
}

#[test]
fn connections_past_the_limit_are_closed_until_one_ends() {
    let server = Server::start(ConnectionLimits::default(), 2);
    let first = server.open();
    let _second = server.open();
    let mut third = server.connect();
    assert!(read_to_end(&mut third).is_empty());
    drop(first);
    assert_eq!(server.next_closed(), "PeerClosed");
    eventually("the place is free", || server.permits.open() == 1);
    let _fourth = server.open();
}

#[test]
fn a_peer_without_hello_and_a_silent_one_are_closed() {
    let limits = ConnectionLimits {
        hello: Duration::from_millis(150),
        idle: Duration::from_millis(400),
        ..ConnectionLimits::default()
    };
    let server = Server::start(limits, 10);
    let mut nameless = server.connect();
    assert!(read_to_end(&mut nameless).is_empty());
    assert_eq!(server.next_closed(), "HelloLate");

    let mut peer = server.open();
    let mut buffer = BytesMut::new();
    for number in 0..8 {
        std::thread::sleep(Duration::from_millis(100));
        peer.write_all(&frame(&ask("alive"), number, b"")).unwrap();
        read_frame(&mut peer, &mut buffer);
    }
    assert!(read_to_end(&mut peer).is_empty());
    assert_eq!(server.next_closed(), "Idle");
}

#[test]
fn a_handler_that_queues_without_bounds_loses_its_connection() {
    let limits = ConnectionLimits { answer_bytes_max: 1 << 20, ..ConnectionLimits::default() };
    let server = Server::start(limits, 10);
    let mut peer = server.open();
    let beat = Heartbeat { producing: vec![], group: String::new(), consuming: vec![] };
    let wire: Vec<u8> = (0..20).flat_map(|number| frame(&beat, number, b"")).collect();
    peer.write_all(&wire).unwrap();
    read_to_end(&mut peer);
    assert!(server.next_closed().starts_with("Overrun"));
}

#[test]
fn shared_memory_is_sent_unchanged_between_small_answers() {
    let limits = ConnectionLimits { answer_bytes_max: 8 << 20, ..ConnectionLimits::default() };
    let server = Server::start(limits, 10);
    let mut peer = server.open();
    let beat = Heartbeat { producing: vec![], group: String::new(), consuming: vec![] };
    let mut wire = Vec::new();
    for number in 0..20 {
        wire.extend(frame(&beat, number, b""));
        wire.extend(frame(&ask("between"), 1000 + number, b""));
    }
    peer.write_all(&wire).unwrap();
    let (mut buffer, expected) = (BytesMut::new(), pattern());
    for number in 0..20 {
        let large = read_frame(&mut peer, &mut buffer);
        assert_eq!(large.head.correlation, number);
        assert!(large.payload == expected, "payload {number} differs");
        assert_eq!(read_frame(&mut peer, &mut buffer).head.correlation, 1000 + number);
    }
}

#[test]
fn a_peer_that_does_not_read_is_not_read_either_and_then_closed() {
    let limits = ConnectionLimits {
        answer_bytes_max: 2 << 20,
        write_stall: Duration::from_millis(500),
        ..ConnectionLimits::default()
    };
    let server = Server::start(limits, 10);
    let mut peer = server.open();
    peer.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    // Requests whose answers fill the socket, then requests that would fill the server if it read them.
    let beat = Heartbeat { producing: vec![], group: String::new(), consuming: vec![] };
    socket2::SockRef::from(&peer).set_recv_buffer_size(64 << 10).unwrap();
    for number in 0..12 {
        peer.write_all(&frame(&beat, number, b"")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let flood = frame(&ask("flood"), 5, &vec![0; 1 << 20]);
    let mut sent = 0;
    while sent < 100 {
        if peer.write_all(&flood).is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 100, "the server read 100 MiB from a peer that does not read");
    assert_eq!(server.next_closed(), "WriteStalled");
}

#[test]
fn held_bytes_stop_the_reading_until_they_are_released() {
    let limits = ConnectionLimits { held_bytes_max: 4000, ..ConnectionLimits::default() };
    let server = Server::start(limits, 10);
    let mut peer = server.open();
    let produce = Produce { level: equeue_net::api::AckLevel::Durable, items: vec![] };
    for number in 0..4 {
        peer.write_all(&frame(&produce, number, &[0; 1000])).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(10));
    peer.write_all(&frame(&ask("after"), 5, b"")).unwrap();
    let mut buffer = BytesMut::new();
    // 99 is answered when the bytes are released, after 50 ms; the request behind them is not read before.
    assert_eq!(read_frame(&mut peer, &mut buffer).head.correlation, 99);
    assert_eq!(read_frame(&mut peer, &mut buffer).head.correlation, 5);
}

#[test]
fn a_connection_that_may_not_be_read_is_not_taken_for_silent() {
    let limits = ConnectionLimits {
        held_bytes_max: 1000,
        idle: Duration::from_millis(200),
        ..ConnectionLimits::default()
    };
    let server = Server::start(limits, 10);
    let mut peer = server.open();
    let produce = Produce { level: equeue_net::api::AckLevel::Durable, items: vec![] };
    // Held for ever, as there are never four of them.
    peer.write_all(&frame(&produce, 1, &[0; 1000])).unwrap();
    assert!(server.closed.recv_timeout(Duration::from_secs(1)).is_err(), "closed while it was not read");
    drop(peer);
    server.stop.send(()).unwrap();
    assert_eq!(server.next_closed(), "Stopped");
}

#[test]
fn time_in_which_the_server_stood_still_is_not_taken_for_silence() {
    let limits = ConnectionLimits { idle: Duration::from_millis(500), ..ConnectionLimits::default() };
    let server = Server::start(limits, 10);
    let (mut stopper, mut silent) = (server.open(), server.open());
    let mut stop = frame(&ask("x"), 1, &[0; 1500]);
    stop[6] = 12;
    stopper.write_all(&stop).unwrap();
    read_frame(&mut stopper, &mut BytesMut::new());
    silent.write_all(&frame(&ask("still there"), 2, b"")).unwrap();
    assert_eq!(read_frame(&mut silent, &mut BytesMut::new()).head.correlation, 2);
}

#[test]
fn a_connection_that_finishes_sends_what_is_queued() {
    let server = Server::start(ConnectionLimits::default(), 10);
    let mut peer = server.open();
    let mut last = frame(&ask("x"), 1, b"");
    last[6] = 11;
    peer.write_all(&last).unwrap();
    assert_eq!(read_to_end(&mut peer), b"the end");
    assert_eq!(server.next_closed(), "Refused(\"as asked\")");
}

#[test]
fn sockets_are_handed_over_to_another_executor_and_never_leak() {
    let listener = bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let permits = Permits::new(1000);
    let (sender, receiver) = mpsc::sync_channel::<Accepted>(4);
    let (stop, stopped) = mpsc::channel::<()>();
    let accepting_permits = permits.clone();
    let accepting = std::thread::spawn(move || {
        executor(async move {
            // Where the channel is full or closed the socket is dropped, and with it closed.
            let hand_over = move |accepted| drop(sender.try_send(accepted));
            let task =
                glommio::spawn_local(accept(listener, accepting_permits, Duration::from_secs(5), hand_over));
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                glommio::timer::sleep(Duration::from_millis(5)).await;
            }
            task.cancel().await;
        });
    });
    let serving = std::thread::spawn(move || {
        executor(async move {
            let connections = Connections::new(ConnectionLimits::default());
            let (closed, _) = mpsc::channel();
            let shards = Rc::new(RefCell::new(Vec::new()));
            while shards.borrow().len() < 20 {
                if let Ok(accepted) = receiver.try_recv() {
                    shards.borrow_mut().push(accepted.preamble.shard);
                    let handler = |_: &Rc<Connection>| Echo {
                        closed: closed.clone(),
                        held: vec![],
                        memory: Rc::new(vec![]),
                    };
                    connections.serve(accepted.fd, accepted.peer, accepted.permit, handler).unwrap();
                } else {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
            }
            connections.drained().await;
            // The channel closes here: what is accepted from now on has nowhere to go.
            drop(receiver);
            shards.take()
        })
    });
    for number in 0..20_u16 {
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(&Preamble { shard: Some(number), purpose: Purpose::Produce, tls: false }.encode())
            .unwrap();
        peer.write_all(&hello()).unwrap();
        assert_eq!(read_frame(&mut peer, &mut BytesMut::new()).head.kind, 1);
    }
    assert_eq!(serving.join().unwrap(), (0..20).map(Some).collect::<Vec<_>>());
    eventually("all are closed", || permits.open() == 0);
    let before = descriptors();
    for _ in 0..20 {
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(&Preamble { shard: None, purpose: Purpose::Produce, tls: false }.encode()).unwrap();
        assert!(read_to_end(&mut peer).is_empty(), "closed, not kept");
    }
    eventually("descriptors come back", || descriptors() <= before);
    eventually("permits come back", || permits.open() == 0);
    stop.send(()).unwrap();
    accepting.join().unwrap();
}

#[test]
fn a_listener_waits_for_the_socket_of_its_predecessor() {
    let first = bind("127.0.0.1:0").expect("a free port");
    let address = first.local_addr().expect("a bound socket").to_string();
    let (began, left) = std::sync::mpsc::channel();
    let predecessor = std::thread::spawn(move || {
        began.send(()).expect("the test waits");
        std::thread::sleep(Duration::from_millis(200));
        drop(first);
    });
    left.recv().expect("the predecessor lives");
    bind(&address).expect("the predecessor has gone");
    predecessor.join().expect("the predecessor ends");
}

#[test]
fn a_second_listener_on_the_same_address_is_refused() {
    let first = bind("127.0.0.1:0").unwrap();
    let address = first.local_addr().unwrap().to_string();
    let error = bind(&address).unwrap_err();
    assert!(error.to_string().contains("another process listens there"), "{error}");
    assert!(bind("no port").is_err());
}

#[test]
fn a_dialer_asks_again_after_its_peer_was_away() {
    let server = Server::start(ConnectionLimits::default(), 10);
    let address = server.address.to_string();
    let (connected, restart) = (mpsc::channel::<()>(), mpsc::channel::<()>());
    let asking = std::thread::spawn(move || {
        executor(async move {
            let config =
                DialerConfig { back_off_first: Duration::from_millis(5), ..DialerConfig::new("broker", 1) };
            let mut dialer = Dialer::new(address, config);
            for number in 0..3 {
                let answer = dialer.request(&ask(&number.to_string())).await.unwrap();
                assert_eq!(answer.status.detail, format!("{number} 0"));
            }
            connected.0.send(()).unwrap();
            restart.1.recv().unwrap();
            // The server is gone: every error is told, and between the attempts there are pauses.
            let mut kinds = std::collections::BTreeSet::new();
            for _ in 0..40 {
                match dialer.request(&ask("x")).await.unwrap_err() {
                    DialError::BackingOff { .. } => kinds.insert("pause"),
                    DialError::Io { .. } => kinds.insert("io"),
                    other => panic!("{other:?}"),
                };
                glommio::timer::sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["io", "pause"]);
        });
    });
    connected.1.recv().unwrap();
    drop(server);
    restart.0.send(()).unwrap();
    asking.join().unwrap();
}

#[test]
fn a_dialer_does_not_wait_for_ever() {
    let listener = bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    executor(async move {
        let config = DialerConfig { request: Duration::from_millis(100), ..DialerConfig::new("broker", 1) };
        let mut dialer = Dialer::new(address, config);
        let error = dialer.request(&ask("x")).await.unwrap_err();
        assert!(matches!(error, DialError::Deadline { step: "answer", .. }), "{error:?}");
    });
    assert_eq!(PREAMBLE_LEN, 16);
}
