//! Faults of a network.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A port that forwards to a port of this machine and can fail like a network. Its connections end
/// when it is dropped.
pub struct TcpProxy {
    port: u16,
    is_open: watch::Sender<bool>,
    cut: watch::Sender<()>,
    silent: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl TcpProxy {
    /// Returns an open proxy of a port.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let own = listener.local_addr().expect("bound").port();
        let (is_open, cut, silent) =
            (watch::Sender::new(true), watch::Sender::new(()), watch::Sender::new(()));
        let faults = (is_open.clone(), cut.clone(), silent.clone());
        let task = tokio::spawn(listen(listener, ([127, 0, 0, 1], port).into(), faults));
        Self { port: own, is_open, cut, silent, task }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes every connection, and each new one, until it is opened again.
    pub fn shut(&self) {
        self.is_open.send_replace(false);
    }

    /// Lets new connections through again.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Closes every connection; new ones get through.
    pub fn cut(&self) {
        self.cut.send_replace(());
    }

    /// Lets nothing more through the present connections, while both ends stay open; new ones get
    /// through.
    pub fn silence(&self) {
        self.silent.send_replace(());
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn listen(
    listener: TcpListener,
    far: SocketAddr,
    (is_open, cut, silent): (watch::Sender<bool>, watch::Sender<()>, watch::Sender<()>),
) {
    while let Ok((mut near, _)) = listener.accept().await {
        let (mut is_open, mut cut, mut silent) =
            (is_open.subscribe(), cut.subscribe(), silent.subscribe());
        if !*is_open.borrow() {
            continue;
        }
        tokio::spawn(async move {
            let Ok(mut far) = TcpStream::connect(far).await else { return };
            let shut = async move { is_open.wait_for(|is_open| !is_open).await.is_ok() };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = shut => {}
                _ = cut.changed() => {}
                _ = silent.changed() => std::future::pending().await,
            }
        });
    }
}
