use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinHandle,
};

/// A way to a server that can be cut: a port of its own.
pub struct Wire {
    pub port: u16,
    cut: Arc<Notify>,
    silent: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Wire {
    /// # Panics
    /// Where there is no free port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let own = listener.local_addr().expect("bound").port();
        let cut = Arc::new(Notify::new());
        let far = SocketAddr::from(([127, 0, 0, 1], port));
        let silent = watch::Sender::new(());
        let task = tokio::spawn(listen(listener, far, cut.clone(), silent.clone()));
        Self { port: own, cut, silent, task }
    }

    /// Ends every connection; who connects again gets through.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// Nothing comes through any connection that there is, and nobody is told: what is sent is taken
    /// and goes nowhere. Who connects again gets through.
    pub fn silence(&self) {
        self.silent.send_replace(());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    listener: TcpListener,
    far: SocketAddr,
    cut: Arc<Notify>,
    silent: watch::Sender<()>,
) {
    while let Ok((mut near, _)) = listener.accept().await {
        let Ok(mut far) = TcpStream::connect(far).await else { continue };
        let (cut, mut silent) = (cut.clone(), silent.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                () = cut.notified() => {}
                // Both ends stay open.
                _ = silent.changed() => std::future::pending().await,
            }
        });
    }
}
