//! The distance to a server: a TCP proxy that lets every byte wait for a millisecond, each way.
//! Order and throughput stay.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Half of the way is tokio's timer, which counts whole milliseconds and so is late by 0.5 ms in
/// the mean. (The bench reports the round trip that it measured.)
const ONE_WAY: Duration = Duration::from_micros(500);
/// Chunks on their way; more than 2 ms of what this machine can send.
const CHUNKS: usize = 1024;

/// A port of this machine that leads to another one, until this process ends.
///
/// # Errors
/// If there is no free port.
pub async fn to(port: u16) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let own = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::spawn(delay(from_near, to_far));
            tokio::spawn(delay(from_far, to_near));
        }
    });
    Ok(own)
}

/// One direction, until either side closes.
async fn delay(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin + Send + 'static) {
    let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    tokio::spawn(async move {
        while let Some((at, chunk)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _closed = to.shutdown().await;
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if queue.send((Instant::now() + ONE_WAY, buffer[..read].to_vec())).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_arrives_whole_in_order_and_a_millisecond_later() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = to(server.local_addr().unwrap().port()).await.unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let started = Instant::now();
        let mut near = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut far, _) = server.accept().await.unwrap();
        let whole = sent.clone();
        tokio::spawn(async move { near.write_all(&whole).await });
        let mut arrived = Vec::new();
        far.read_to_end(&mut arrived).await.unwrap();
        assert!(arrived == sent, "{} of {} bytes, or another order", arrived.len(), sent.len());
        assert!(started.elapsed() >= ONE_WAY);
    }
}
