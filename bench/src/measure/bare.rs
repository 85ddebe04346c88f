//! Measures the broker's share of the latency: a message of a small batch's size, from its
//! publisher to a consumer on another connection, without our code between them. The rest of a
//! commit's latency is ours.

use super::latency::{PACE, WARM_UP};
use crate::report::{Floor, Report};
use crate::sample::Samples;
use crate::time::{check, now, since_ns};
use anyhow::{Context, Result};
use async_nats::jetstream::consumer::{AckPolicy, push};
use async_nats::jetstream::stream;
use futures_util::StreamExt;
use std::time::Duration;

const SUBJECT: &str = "harmonylite-bench";
/// The size of a batch of one row, headers included.
const MESSAGE_BYTES: usize = 500;
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// Publishes at the same rate as the commits. Returns the median, ms.
pub(crate) fn measure(url: &str, report: &mut Report, commits: i64) -> Result<f64> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let times = runtime.block_on(series(url, commits))?;
    report.add_times("  of which the broker alone", &times, [Floor::None; 2]);
    Ok(times.quantile(500))
}

/// Returns the times from the publishing call to the delivery.
async fn series(url: &str, messages: i64) -> Result<Samples> {
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
        check()?;
        let published = now();
        let ack = publisher.publish(SUBJECT, vec![0; MESSAGE_BYTES].into()).await?;
        tokio::time::timeout(ARRIVES_WITHIN, deliveries.next())
            .await?
            .context("the subscription ended")?;
        if i >= WARM_UP {
            taken_ns.push(since_ns(published));
        }
        ack.await?;
    }
    Ok(Samples::new(taken_ns))
}
