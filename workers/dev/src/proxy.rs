//! Faults of a network: a TCP proxy that can cut, refuse, delay and swallow.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep_until,
};

/// Chunks on their way in one direction, at most.
const CHUNKS: usize = 256;

/// A direction of the present connections in which nothing is carried any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected.
    Forth,
    /// To whoever connected.
    Back,
}

/// A port that forwards to a port of this machine and can fail like a network. Its connections end
/// when it is dropped.
pub struct TcpProxy {
    port: u16,
    state: ProxyState,
    task: JoinHandle<()>,
}

/// The state that the connections of a proxy follow.
#[derive(Clone)]
struct ProxyState {
    /// The port that it forwards to.
    far: watch::Sender<u16>,
    is_open: watch::Sender<bool>,
    cut: watch::Sender<()>,
    /// Counts the silences of each direction: a connection that saw it change carries nothing.
    silent: [watch::Sender<()>; 2],
    delay: watch::Sender<Duration>,
}

impl TcpProxy {
    /// Returns an open proxy of a port.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no free port")?;
        let own = listener.local_addr()?.port();
        let state = ProxyState {
            far: watch::Sender::new(port),
            is_open: watch::Sender::new(true),
            cut: watch::Sender::new(()),
            silent: [watch::Sender::new(()), watch::Sender::new(())],
            delay: watch::Sender::new(Duration::ZERO),
        };
        let task = tokio::spawn(listen(listener, state.clone()));
        Ok(Self { port: own, state, task })
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Forwards new connections to another port, and closes the present ones.
    pub fn aim(&self, port: u16) {
        self.state.far.send_replace(port);
        self.cut();
    }

    /// Closes every connection, and each new one, until it is opened again.
    pub fn shut(&self) {
        self.state.is_open.send_replace(false);
    }

    /// Lets new connections through again.
    pub fn open(&self) {
        self.state.is_open.send_replace(true);
    }

    /// Closes every connection; new ones get through.
    pub fn cut(&self) {
        self.state.cut.send_replace(());
    }

    /// Lets nothing more through the present connections, while both ends stay open; new ones get
    /// through.
    pub fn silence(&self) {
        self.silence_one_way(Direction::Forth);
        self.silence_one_way(Direction::Back);
    }

    /// The same in one direction only.
    pub fn silence_one_way(&self, direction: Direction) {
        self.state.silent[direction as usize].send_replace(());
    }

    /// Lets every byte wait for so long, each way; order and throughput stay.
    pub fn delay(&self, delay: Duration) {
        self.state.delay.send_replace(delay);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn listen(listener: TcpListener, state: ProxyState) {
    while let Ok((near, _)) = listener.accept().await {
        if !*state.is_open.borrow() {
            continue;
        }
        let mut is_open = state.is_open.subscribe();
        let mut cut = state.cut.subscribe();
        let silent = state.silent.clone().map(|silent| silent.subscribe());
        let delay = state.delay.subscribe();
        let far = *state.far.borrow();
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, far)).await else { return };
            let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            let [forth, back] = silent;
            let carried = async {
                tokio::join!(
                    carry(from_near, to_far, delay.clone(), forth),
                    carry(from_far, to_near, delay.clone(), back),
                )
            };
            let shut = async move { is_open.wait_for(|is_open| !is_open).await.is_ok() };
            tokio::select! {
                _ = carried => {}
                _ = shut => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// Carries one direction until its sender closes.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: watch::Receiver<Duration>,
    mut silent: watch::Receiver<()>,
) {
    // The halves are borrowed: they stay open when nothing is carried any more.
    let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let read = async {
        let queue = queue;
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let at = Instant::now() + *delay.borrow();
            if queue.send((at, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some((at, chunk)) = due.recv().await {
            // A timer counts whole milliseconds, so nobody waits who need not.
            if at > Instant::now() {
                sleep_until(at.into()).await;
            }
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _closed = to.shutdown().await;
    };
    tokio::select! {
        _ = async { tokio::join!(read, write) } => {}
        changed = silent.changed() => {
            if changed.is_ok() {
                // Both halves stay open, and nobody reads.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair(proxy: &TcpProxy, server: &TcpListener) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("connected");
        (near, server.accept().await.expect("accepted").0)
    }

    #[tokio::test]
    async fn a_silent_direction_swallows_and_the_other_goes_on() -> Result<()> {
        let server = TcpListener::bind(("127.0.0.1", 0)).await?;
        let proxy = TcpProxy::to(server.local_addr()?.port()).await?;
        let (mut near, mut far) = pair(&proxy, &server).await;
        near.write_all(b"a").await?;
        assert_eq!(far.read_u8().await?, b'a');
        proxy.silence_one_way(Direction::Forth);
        tokio::task::yield_now().await;
        near.write_all(b"b").await?;
        far.write_all(b"c").await?;
        assert_eq!(near.read_u8().await?, b'c');
        proxy.cut();
        // What was swallowed never comes: the next thing is the end.
        let mut rest = Vec::new();
        let _reset = far.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
        Ok(())
    }

    #[tokio::test]
    async fn a_delay_keeps_the_order_and_a_shut_proxy_closes() -> Result<()> {
        let server = TcpListener::bind(("127.0.0.1", 0)).await?;
        let proxy = TcpProxy::to(server.local_addr()?.port()).await?;
        proxy.delay(Duration::from_millis(20));
        let (mut near, mut far) = pair(&proxy, &server).await;
        let began = Instant::now();
        near.write_all(b"one").await?;
        near.write_all(b"two").await?;
        let mut read = [0; 6];
        far.read_exact(&mut read).await?;
        assert_eq!(&read, b"onetwo");
        assert!(began.elapsed() >= Duration::from_millis(20));
        proxy.shut();
        assert_eq!(near.read(&mut read).await.unwrap_or(0), 0);
        let mut again = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        assert_eq!(again.read(&mut read).await.unwrap_or(0), 0);
        proxy.open();
        pair(&proxy, &server).await;
        Ok(())
    }
}
