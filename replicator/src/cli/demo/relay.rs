//! A connection between a node and the broker that can be cut: a TCP relay on loopback, which also
//! counts bytes.

use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const CHUNK_BYTES: usize = 64 << 10;

/// One node's relay.
pub(super) struct Relay {
    /// The URL that the node connects to.
    pub(super) url: String,
    whole: watch::Sender<bool>,
    bytes: Arc<(AtomicU64, AtomicU64)>,
}

impl Relay {
    /// Relays to this address (`host:port`), inside a tokio runtime.
    pub(super) async fn start(to: String) -> Result<Self> {
        let listener =
            TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let url = format!("nats://{}", listener.local_addr()?);
        let (whole, seen) = watch::channel(true);
        let bytes = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        tokio::spawn(accept(listener, to, seen, Arc::clone(&bytes)));
        Ok(Self { url, whole, bytes })
    }

    /// Cuts the connection: existing connections end, and new ones get no data.
    pub(super) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Restores the connection.
    pub(super) fn mend(&self) {
        self.whole.send_replace(true);
    }

    /// Returns the bytes so far: to the broker, and from it.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.bytes.0.load(Ordering::Relaxed), self.bytes.1.load(Ordering::Relaxed))
    }
}

/// Ends with the relay: the listener is closed and the connections with it.
async fn accept(
    listener: TcpListener,
    to: String,
    mut whole: watch::Receiver<bool>,
    bytes: Arc<(AtomicU64, AtomicU64)>,
) {
    loop {
        let node = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((node, _)) => node,
                // Out of descriptors, or closed before the accept: the node tries again.
                Err(_) => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            changed = whole.changed() => if changed.is_err() { return } else { continue },
        };
        if *whole.borrow() {
            tokio::spawn(carry(node, to.clone(), whole.clone(), Arc::clone(&bytes)));
        }
    }
}

async fn carry(
    node: TcpStream,
    to: String,
    mut whole: watch::Receiver<bool>,
    bytes: Arc<(AtomicU64, AtomicU64)>,
) {
    let Ok(broker) = TcpStream::connect(to).await else { return };
    // Small messages matter here; where it cannot be set they are only slower.
    let _ = (node.set_nodelay(true), broker.set_nodelay(true));
    let ((mut node_in, mut node_out), (mut broker_in, mut broker_out)) =
        (node.into_split(), broker.into_split());
    tokio::select! {
        () = pump(&mut node_in, &mut broker_out, &bytes.0) => {}
        () = pump(&mut broker_in, &mut node_out, &bytes.1) => {}
        _ = whole.wait_for(|whole| !whole) => {}
    }
}

/// Not `copy_bidirectional`: that one tells the bytes only at its end, and a cut wire has none.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(read) = from.read(&mut chunk).await {
        let Some(content) = chunk.get(..read).filter(|c| !c.is_empty()) else { return };
        if to.write_all(content).await.is_err() {
            return;
        }
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wire_carries_is_cut_and_is_mended() {
        let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::start(broker.local_addr().unwrap().to_string()).await.unwrap();
        let address = relay.url.trim_start_matches("nats://").to_owned();
        let mut node = TcpStream::connect(&address).await.unwrap();
        let (mut end, _) = broker.accept().await.unwrap();
        node.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        end.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        relay.cut();
        assert_eq!(node.read(&mut got).await.unwrap_or(0), 0, "the connection ends");
        let mut refused = TcpStream::connect(&address).await.unwrap();
        assert_eq!(refused.read(&mut got).await.unwrap_or(0), 0, "a new one goes nowhere");
        relay.mend();
        let mut again = TcpStream::connect(&address).await.unwrap();
        let (mut end, _) = broker.accept().await.unwrap();
        end.write_all(b"again").await.unwrap();
        again.read_exact(&mut got).await.unwrap();
        assert_eq!((&got, relay.bytes()), (b"again", (5, 5)));
    }
}
