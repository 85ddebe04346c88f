//! Measures the broker's share of the latency: a message of a small batch's size, from its
//! publisher to a consumer on another connection, without our code between them. The rest of a
//! commit's latency is ours.

use crate::latency::{PACE, WARM_UP, quantile};
use crate::report::{Floor, Report};
use anyhow::{Context, Result};
use async_nats::jetstream::consumer::{AckPolicy, push};
use async_nats::jetstream::stream;
use futures_util::StreamExt;
use harmonylite::clock;
use std::time::Duration;

const SUBJECT: &str = "harmonylite-bench";
/// The size of a batch of one row, headers included.
const MESSAGE_BYTES: usize = 500;
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// Publishes at the same rate as the commits.
pub(crate) fn measure(url: &str, report: &mut Report, commits: i64) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let taken_ns = runtime.block_on(series(url, commits))?;
    report.add("  of which the broker alone, median", quantile(&taken_ns, 50), "ms", Floor::None);
    report.add("  of which the broker alone, p99", quantile(&taken_ns, 99), "ms", Floor::None);
    Ok(())
}

/// Returns the nanoseconds from the publishing call to the delivery, sorted.
async fn series(url: &str, messages: i64) -> Result<Vec<i64>> {
    let publisher = async_nats::jetstream::new(async_nats::connect(url).await?);
    let consumer = async_nats::connect(url).await?;
    let config = stream::Config {
        name: SUBJECT.to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        ..stream::Config::default()
    };
    publisher.create_stream(config).await?;
    let inbox = consumer.new_inbox();
    let mut deliveries = consumer.subscribe(inbox.clone()).await?;
    let config = push::Config {
        deliver_subject: inbox,
        ack_policy: AckPolicy::None,
        ..push::Config::default()
    };
    async_nats::jetstream::new(consumer).create_consumer_on_stream(config, SUBJECT).await?;
    let mut taken_ns = Vec::new();
    for i in 0..WARM_UP + messages {
        tokio::time::sleep(PACE).await;
        let published = clock::unix_ns();
        let ack = publisher.publish(SUBJECT, vec![0; MESSAGE_BYTES].into()).await?;
        tokio::time::timeout(ARRIVES_WITHIN, deliveries.next())
            .await?
            .context("the subscription ended")?;
        if i >= WARM_UP {
            taken_ns.push(clock::unix_ns() - published);
        }
        ack.await?;
    }
    taken_ns.sort_unstable();
    Ok(taken_ns)
}
