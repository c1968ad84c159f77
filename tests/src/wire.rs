//! A TCP proxy that can be slow, break off, or be dead, and that counts what it carries.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How new connections are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are carried.
    Open,
    /// They are refused: nobody listens.
    Closed,
    /// They are accepted, and nothing ever comes back.
    Silent,
}

/// How far the schedule may lag behind before its turns are lost, in nanoseconds.
const BURST: u64 = 20_000_000;

struct State {
    target: SocketAddr,
    silent: AtomicBool,
    /// Bytes a second from the target, all connections together; 0 for no limit.
    rate: AtomicU64,
    /// When the next bytes may go out, in nanoseconds since `begun`.
    next: AtomicU64,
    begun: Instant,
    /// Bytes from the target until all connections are cut; negative for never.
    cut_after: AtomicI64,
    cut: Notify,
    carried: AtomicU64,
    accepted: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
}

/// A running proxy. Dropping it cuts everything.
pub struct Wire {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: Option<JoinHandle<()>>,
}

impl Wire {
    /// Starts on a free port, in front of `target`.
    pub async fn to(target: SocketAddr) -> Wire {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into());
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            target,
            silent: AtomicBool::new(false),
            rate: AtomicU64::new(0),
            next: AtomicU64::new(0),
            begun: Instant::now(),
            cut_after: AtomicI64::new(-1),
            cut: Notify::new(),
            carried: AtomicU64::new(0),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let task = Some(tokio::spawn(accept(listener, Arc::clone(&state))));
        Wire { address, state, task }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Limits what comes from the target to `rate` bytes a second, all connections together; 0 for no limit.
    pub fn limit(&self, rate: u64) {
        self.state.rate.store(rate, Ordering::SeqCst);
    }

    /// Treats new connections so; those that are carried already go on.
    pub async fn set(&mut self, mode: Mode) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Only when the task is gone is the port closed.
            let _ = task.await;
        }
        self.state.silent.store(mode == Mode::Silent, Ordering::SeqCst);
        if mode != Mode::Closed {
            self.task = Some(tokio::spawn(accept(listen(self.address), Arc::clone(&self.state))));
        }
    }

    /// Cuts all connections now.
    pub fn cut(&self) {
        self.state.cut.notify_waiters();
    }

    /// Cuts all connections, once, after `bytes` more from the target.
    pub fn cut_after(&self, bytes: u64) {
        self.state.cut_after.store(i64::try_from(bytes).unwrap(), Ordering::SeqCst);
    }

    /// Bytes that came from the target so far, headers included.
    pub fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::SeqCst)
    }

    /// The most connections that were carried at a time.
    pub fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.cut();
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    // What was written counts as carried, so little may wait in the kernel. Accepted connections inherit this.
    socket.set_send_buffer_size(32 << 10).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        state.accepted.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            if state.silent.load(Ordering::SeqCst) {
                state.cut.notified().await;
                drop(client);
                return;
            }
            let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
            state.most.fetch_max(open, Ordering::SeqCst);
            carry(client, &state).await;
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn carry(mut client: TcpStream, state: &State) {
    let cut = state.cut.notified();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let Ok(mut server) = socket.connect(state.target).await else { return };
    // With so little in the kernel, Nagle's algorithm would wait for delayed acknowledgements: 17 MB/s a connection.
    client.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
        // The answer may still be on its way when the client has said all.
        std::future::pending::<()>().await;
    };
    let down = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            pace(state, read).await;
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
            state.carried.fetch_add(read as u64, Ordering::SeqCst);
            if state.cut_after.load(Ordering::SeqCst) >= 0
                && state.cut_after.fetch_sub(i64::try_from(read).unwrap(), Ordering::SeqCst) <= read as i64
            {
                state.cut_after.store(-1, Ordering::SeqCst);
                state.cut.notify_waiters();
                return;
            }
        }
    };
    tokio::select! {
        () = cut => {}
        () = up => {}
        () = down => {}
    }
}

/// Waits until `bytes` more may go out: all connections take their turns from one schedule.
async fn pace(state: &State, bytes: usize) {
    let rate = state.rate.load(Ordering::SeqCst);
    if rate == 0 {
        return;
    }
    let cost = bytes as u64 * 1_000_000_000 / rate;
    let now = u64::try_from(state.begun.elapsed().as_nanos()).unwrap();
    let mut next = state.next.load(Ordering::SeqCst);
    loop {
        // Timers are late by a millisecond or so; what was lost by that may be made up for.
        let slot = next.max(now.saturating_sub(BURST));
        match state.next.compare_exchange(next, slot + cost, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                tokio::time::sleep_until(state.begun + Duration::from_nanos(slot)).await;
                return;
            }
            Err(changed) => next = changed,
        }
    }
}
