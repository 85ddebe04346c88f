//! Puts pieces of a snapshot into a broker: by our store, and as the NATS client's own object store
//! does, which waits for the acknowledgement of each 128 KiB. By turns; the broker is the same.
//!
//! `broker_store nats://127.0.0.1:4222 200` puts 200 pieces of 600 kB, the size of a compressed
//! megabyte of text, and prints MB/s and the ratio of each round.

use anyhow::{Context, Result};
use async_nats::jetstream::{self, stream::Config};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use harmonylite::nats::{NatsStore, Target};
use harmonylite::settings::Settings;
use harmonylite_snapshot::Name;
use harmonylite_snapshot::store::Store;
use sha2::{Digest, Sha256};
use std::time::Instant;

const PIECE_BYTES: usize = 600_000;
const MESSAGE_BYTES: usize = 128 << 10;
/// The pieces that a save sends at the same time.
const PARALLEL: usize = 4;
const BUCKET: &str = "harmonylite-bench-objects";
const ROUNDS: u64 = 5;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("usage: broker_store URL PIECES")?;
    let count: u64 = arguments.next().context("the number of pieces")?.parse()?;
    let text = format!("[nats]\nurls = [\"{url}\"]\nstream_prefix = \"harmonylite-bench\"\n");
    let settings = Settings::from_toml(&text, "bench.toml".as_ref())?.settings;
    let target = Target { urls: vec![url.clone()], access: None };
    let store = NatsStore::open(&settings, &settings.snapshot.nats, &target).await?;
    let client = jetstream::new(async_nats::connect(&url).await?);
    let megabytes = count as f64 * PIECE_BYTES as f64 / 1e6;
    for round in 0..ROUNDS {
        let pieces: Vec<Bytes> = (0..count).map(|i| piece(round * count + i)).collect();
        let own = put_one_by_one(&client, &pieces).await?;
        let ours = put_by_store(&store, &pieces).await?;
        println!(
            "ours {:.0} MB/s, the client's own {:.0} MB/s: {:.2} times",
            megabytes / ours,
            megabytes / own,
            own / ours
        );
    }
    client.delete_stream(settings.snapshot_bucket(&settings.snapshot.nats)).await?;
    Ok(())
}

/// Content that does not repeat.
fn piece(seed: u64) -> Bytes {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    };
    (0..PIECE_BYTES / 8).flat_map(|_| next()).collect()
}

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

async fn put_by_store(store: &NatsStore, pieces: &[Bytes]) -> Result<f64> {
    let began = now();
    let put = |(number, body): (usize, &Bytes)| {
        let (name, body) = (Name::new(format!("chunk/{number}")), body.clone());
        async move { anyhow::Ok(store.put(&name.context("a name")?, body).await?) }
    };
    let puts = stream::iter(pieces.iter().enumerate().map(put));
    puts.buffer_unordered(PARALLEL).try_collect::<()>().await?;
    Ok(began.elapsed().as_secs_f64())
}

async fn put_one_by_one(client: &jetstream::Context, pieces: &[Bytes]) -> Result<f64> {
    let subjects = vec![format!("{BUCKET}.>")];
    client.create_stream(Config { name: BUCKET.into(), subjects, ..Config::default() }).await?;
    let began = now();
    for (number, body) in pieces.iter().enumerate() {
        let mut digest = Sha256::new();
        for start in (0..body.len()).step_by(MESSAGE_BYTES) {
            let part = body.slice(start..body.len().min(start + MESSAGE_BYTES));
            digest.update(&part);
            client.publish(format!("{BUCKET}.{number}"), part).await?.await?;
        }
        let digest = digest.finalize().to_vec();
        client.publish(format!("{BUCKET}.{number}.head"), digest.into()).await?.await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    client.delete_stream(BUCKET).await?;
    Ok(seconds)
}
